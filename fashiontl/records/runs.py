"""The files of runs, read back as far as they can be."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError, no_file
from fashiontl.records.record import Record, current_settings, from_json

# Settings that do not change what a number means: names, places, and how long or how closely one looked. Threads are
# part of the machine.
_NOT_MEANING = (
    "preset", "data_root", "seconds", "samples", "processes", "half_width", "budget", "spacing", "timeout", "threads",
    "profile", "sweep",
)  # fmt: skip

# A line is often longer than the usual buffer, and would be put together from pieces.
_BUFFER = 2**20

_Kept = TypeVar("_Kept")


class _Place(NamedTuple):
    """Where a line stands: its number from 1, and bytes from the file's beginning."""

    path: Path
    number: int
    offset: int

    def read(self, line: bytes | None = None) -> Record:
        """Its record, of the line where it is at hand."""
        if line is None:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                line = file.readline()
        return from_json(line, f"{self.path}:{self.number}")


class _Identity(msgspec.Struct):
    """What tells which cell a line is of, and when it was measured; msgspec skips the rest."""

    started: str
    machine: str
    case: Case
    settings: dict[str, Any]

    def key(self) -> Hashable:
        """As `_key` of its record."""
        return self.machine, self.case, meaning(msgspec.convert(current_settings(self.settings), Settings))


class Runs(NamedTuple):
    """Records, and what could not be read: one `file:line: what` each."""

    records: tuple[Record, ...]
    errors: tuple[str, ...]


def new_run_path(results: Path, machine: str, sha: str | None, now: datetime, unique: str) -> Path:
    """Path of a new run, a name that no other run has, so that merges never conflict.

    `sha` is the commit, if there is one, and `unique` tells apart runs of one second.
    """
    commit = sha[:8] if sha else "nogit"
    return results / "runs" / machine / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{commit}-{unique}.jsonl"


def read_file(path: Path) -> Runs:
    """All records of one run; lines that cannot be read become errors."""
    return _read([path])


def read_runs(results: Path) -> Runs:
    """All records of all runs, in the order of files and lines; lines that cannot be read become errors."""
    return _read(_run_files(results))


def _read(paths: Iterable[Path]) -> Runs:
    records: list[Record] = []
    errors: list[str] = []
    for place, line in _lines(paths, errors):
        try:
            records.append(place.read(line))
        except FashiontlError as error:
            errors.append(str(error))
    return Runs(tuple(records), tuple(errors))


def read_newest(results: Path, keep: Callable[[Record], _Kept]) -> tuple[list[_Kept], list[str]]:
    """What `latest` chooses of all runs, without holding lines or records in memory or parsing what is out of date.

    Returns:
        What `keep` makes of each record, and errors as in `Runs`. Where the newest line of a cell cannot be read, the
        one before it counts; errors deep in lines that are out of date are not looked for.
    """
    decoder = msgspec.json.Decoder(_Identity)
    lines: dict[Hashable, list[tuple[str, _Place]]] = {}
    errors: list[str] = []
    for place, line in _lines(_run_files(results), errors):
        try:
            found = decoder.decode(line)
            key, started = found.key(), found.started
        except (ValueError, RecursionError, msgspec.MsgspecError):
            try:
                record = place.read(line)
            except FashiontlError as error:
                errors.append(str(error))
                continue
            key, started = _key(record), record.started
        lines.setdefault(key, []).append((started, place))
    kept = []
    for places in lines.values():
        for _, place in sorted(places, key=lambda entry: entry[0])[::-1]:
            try:
                kept.append(keep(place.read()))
                break
            except (FashiontlError, OSError) as error:
                errors.append(str(error))
    return kept, errors


def latest(records: Iterable[Record]) -> list[Record]:
    """The newest record of each case, on each machine, with each meaning of the settings."""
    newest: dict[Hashable, Record] = {}
    for record in records:
        key = _key(record)
        # Times in UTC of one form sort as text. The later of two records of one second is the newer.
        if key not in newest or record.started >= newest[key].started:
            newest[key] = record
    return list(newest.values())


def _key(record: Record) -> Hashable:
    return record.machine, record.case, meaning(record.settings)


@functools.lru_cache(maxsize=1024)
def meaning(settings: Settings) -> Settings:
    """The settings with everything at its default that does not change what a number means."""
    default = Settings()
    return replace(settings, **{name: getattr(default, name) for name in _NOT_MEANING})


def resumable(results: Path, machine: str, settings: Settings) -> tuple[Path | None, set[str]]:
    """The machine's newest run with these settings, if there is one, and the ids of its cases that went well."""
    for path in reversed(_run_files(results, machine)):
        records = read_file(path).records
        if records and meaning(records[0].settings) == meaning(settings):
            return path, {record.id for record in records if record.status == "ok"}
    return None, set()


def _run_files(results: Path, machine: str = "**") -> list[Path]:
    return sorted((results / "runs").glob(f"{machine}/*.jsonl"))


def _lines(paths: Iterable[Path], errors: list[str]) -> Iterator[tuple[_Place, bytes]]:
    """Each line that is not blank, with its place; what cannot be read is added to the errors."""
    for path in paths:
        # Who opens a pipe waits for ever; a folder says what it is itself.
        if (kind := no_file(path)) not in {"", "a folder"}:
            errors.append(f"{path}: expected a run's file, got {kind}; move it away")
            continue
        try:
            with path.open("rb", buffering=_BUFFER) as file:
                offset = 0
                for number, line in enumerate(file, start=1):
                    if not line.isspace():
                        yield _Place(path, number, offset), line
                    offset += len(line)
        except OSError as error:
            errors.append(f"{path}: expected a run's file, got: {error.strerror}")
