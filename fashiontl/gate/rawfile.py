"""A gate's raw numbers as a file of JSON, from which its verdict can be computed again. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fashiontl.core.errors import FashiontlError, no_file, unwritable
from fashiontl.core.files import write_atomically
from fashiontl.core.metrics import METRICS
from fashiontl.gate.raw import SCHEMA, Asked, Raw, SeedPair
from fashiontl.gate.sequential import slice_faults
from fashiontl.gate.strict import read_strictly, write_strictly
from fashiontl.records.record import is_utc

_NEXT_STEP = "run the gate again"
# Seconds: thirty years, more than any gate takes.
_LONGEST = 1e9


def to_json(raw: Raw) -> str:
    """All of a gate as one line of JSON.

    Raises:
        FashiontlError: a number in it is not finite.
    """
    return write_strictly(raw, "the gate's raw numbers")


def from_json(text: str | bytes, where: str) -> Raw:
    """Parse what `to_json` wrote.

    Args:
        text: JSON; bytes are UTF-8.
        where: the file, for messages.

    Raises:
        FashiontlError: not JSON, another schema, fields missing, unknown or of a wrong type, or values that cannot be;
            all faults are listed.
    """
    raw = read_strictly(Raw, SCHEMA, text, where, _NEXT_STEP, _upgrade)
    if faults := list(_faults(raw)):
        raise FashiontlError(f"{where}: {'; '.join(faults)}; {_NEXT_STEP}")
    return raw


def write(raw: Raw, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        FashiontlError: it cannot be written, or a number is not finite.
    """
    contents = to_json(raw).encode() + b"\n"
    try:
        write_atomically(path, contents)
    except OSError as error:
        raise FashiontlError(unwritable(path, error)) from error


def read(path: Path) -> Raw:
    """Read a file.

    Raises:
        FashiontlError: it cannot be read, or as `from_json`.
    """
    if kind := no_file(path):
        raise FashiontlError(f"expected a gate's JSON, got {kind}: {path}; name another file")
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise FashiontlError(f"expected a gate's JSON, got {path}: {error.strerror}; name another file") from error
    return from_json(contents, str(path))


def _upgrade(entry: dict[str, Any]) -> None:
    """Schema 1 did not say what was asked for; nothing else has changed."""
    if entry.get("schema") != 1 or isinstance(entry["schema"], bool):
        return
    entry |= {"schema": 2, "asked": None, "untold": [], "interrupted": False}
    answers = entry.get("answers")
    for each in answers if isinstance(answers, list) else ():
        if isinstance(each, dict):
            each["images"] = 0


def _faults(raw: Raw) -> Iterator[str]:
    """Values that cannot be, in fields of the right shape.

    The judge looks again, since what it is given need not have been a file: there such values are `CRASHED`, while a
    file that has any was changed by someone and is bad input.
    """
    if not is_utc(raw.started):
        yield f"field started: expected an ISO time in UTC, got {raw.started!r}"
    yield from _whole_faults(raw)
    for name, entries in (("series", raw.series), ("counts", raw.counts), ("untold", raw.untold)):
        for index, metric in enumerate(entry.metric for entry in entries):
            if metric not in METRICS:
                yield f"field {name}[{index}].metric: expected one of {', '.join(METRICS)}, got {metric!r}"
    yield from _series_faults(raw)
    for index, answers in enumerate(raw.answers):
        for number, pair in enumerate(answers.seeds):
            yield from _pair_faults(pair, f"answers[{index}].seeds[{number}]")


def _pair_faults(pair: SeedPair, where: str) -> Iterator[str]:
    if len(pair.right_base) != len(pair.right_head) or not pair.right_base:
        counts = f"{len(pair.right_base)} and {len(pair.right_head)}"
        yield f"field {where}: expected answers to the same images in both arms, got {counts}"
    if set(pair.right_base + pair.right_head) - {"0", "1"}:
        yield f"field {where}: expected answers as 0 and 1"


def _whole_faults(raw: Raw) -> Iterator[str]:
    for name, number in (("seconds", raw.seconds), ("budget", raw.budget)):
        if not 0 <= number < _LONGEST:
            yield f"field {name}: expected 0 to {_LONGEST:g} seconds, got {number:g}"
    yield from _repeats({"cells": raw.cells, "new": raw.new, "removed": raw.removed}, "cell")
    if raw.asked:
        yield from _asked_faults(raw.asked)


def _asked_faults(asked: Asked) -> Iterator[str]:
    """A statement that asks for less than nothing, or not of each cell, would let pass what was never measured."""
    for index, metric in enumerate(asked.metrics):
        if metric not in METRICS:
            yield f"field asked.metrics[{index}]: expected one of {', '.join(METRICS)}, got {metric!r}"
    yield from _repeats({"asked.cells": asked.cells}, "cell")
    yield from _repeats({"asked.metrics": asked.metrics}, "metric")
    for cell in sorted({*asked.cells} ^ {*asked.processes}):
        got = "none" if cell in asked.cells else "a cell that was not asked for"
        yield f"field asked.processes: expected a number for each cell of asked.cells, got {got}: {cell!r}"
    numbers = {"slices": asked.slices, "seeds": asked.seeds}
    for name, number in (numbers | {f"processes.{cell}": count for cell, count in asked.processes.items()}).items():
        if number < 0:
            yield f"field asked.{name}: expected 0 or more, got {number}"


def _repeats(lists: Mapping[str, Sequence[str]], kind: str) -> Iterator[str]:
    for name, entries in lists.items():
        if twice := sorted({entry for entry in entries if entries.count(entry) > 1}):
            yield f"field {name}: expected each {kind} once, got {', '.join(map(repr, twice))} more than once"


def _series_faults(raw: Raw) -> Iterator[str]:
    for index, series in enumerate(raw.series):
        if series.images < 1:
            yield f"field series[{index}].images: expected 1 or more, got {series.images}"
        if not series.epochs:
            yield f"field series[{index}].epochs: expected one or more"
        for number, epoch in enumerate(series.epochs):
            yield from (f"field series[{index}].epochs[{number}]: {fault}" for fault in slice_faults(epoch))
