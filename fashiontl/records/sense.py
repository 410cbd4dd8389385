"""What cannot be, in a record whose fields are of the right types and in their ranges."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fashiontl.core.case import Case
from fashiontl.core.errors import brief
from fashiontl.core.metrics import Measurement
from fashiontl.records.record import is_utc


def sense_faults(
    texts: Mapping[str, str], case: Case | None, measured: Sequence[Measurement], seeds: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What cannot be, in fields of the right types and in their ranges; those with other faults are left out.

    Args:
        texts: `id`, `machine`, `run` and `started`.
        case: the record's.
        measured: its measurements.
        seeds: `evaluation` of its provenance.
    """
    found = [time_fault(texts["started"])] if "started" in texts else []
    found += [_id_fault(texts["id"], case)] if "id" in texts and case else []
    found += _name_faults({name: texts[name] for name in ("machine", "run") if name in texts})
    return [*filter(None, found), *_measurement_faults(measured, seeds)]


def time_fault(started: str, now: datetime | None = None) -> str:
    """What is wrong with the time of a record; empty when nothing is.

    Args:
        started: as it was read.
        now: the time by this machine's clock; None asks it. A day's difference to another's is no fault.
    """
    # Of another form, times would not sort as texts do.
    if not (_TIME.fullmatch(started) and is_utc(started)):
        return f"field started: expected an ISO time in UTC such as 2026-01-02T03:04:05+00:00, got {brief(started)}"
    latest = (now or datetime.now(UTC)) + timedelta(days=1)
    if not FIRST_TIME <= datetime.fromisoformat(started) <= latest:
        return (
            f"field started: expected a time from {FIRST_TIME:%Y-%m-%d} to {latest:%Y-%m-%d}, got {started}; "
            "see that the clocks of both machines are right"
        )
    return ""


def _name_faults(names: Mapping[str, str]) -> Iterator[str]:
    for name, text in names.items():
        if not _NAME.fullmatch(text):
            yield f"field {name}: expected up to 200 letters, digits and .+-_, got {brief(text)}"


def _id_fault(text: str, case: Case) -> str:
    return "" if text == case.id else f"field id: expected {brief(case.id)}, as its case says, got {brief(text)}"


def _measurement_faults(measured: Sequence[Measurement], seeds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    by_metric = {each.metric: each for each in measured}
    if len(by_metric) < len(measured):
        names = [each.metric for each in measured]
        twice = ", ".join(name for name in by_metric if names.count(name) > 1)
        yield f"field measurements: expected each metric once, got several of {twice}"
    accuracy = by_metric.get("accuracy")
    if accuracy is not None and accuracy.values:
        yield from _accuracy_faults(accuracy, seeds)


def _accuracy_faults(accuracy: Measurement, seeds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    trials = accuracy.trials
    # Fractions may have been rounded to six digits.
    if trials < 1 or any(abs(value * trials - round(value * trials)) > 0.02 for value in accuracy.values):
        yield f"accuracy: expected fractions of 1 or more whole images, got {brief(accuracy.values)} of {trials}"
    for index, seed in enumerate(seeds):
        confusion = seed.get("confusion")
        where = f"provenance.evaluation[{index}].confusion"
        if confusion is None:
            continue
        if any(len(row) != len(confusion) for row in confusion) or not confusion:
            yield f"field {where}: expected as many columns as rows, and one or more"
        elif (images := sum(map(sum, confusion))) != trials:
            yield f"field {where}: expected the {trials:,} images of the accuracy, got {images:,}"
    if seeds and len(seeds) != len(accuracy.values):
        yield f"field provenance.evaluation: expected a seed an accuracy, {len(accuracy.values)}, got {len(seeds)}"


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(\+00:00|Z)")
# No version of this package is older.
FIRST_TIME = datetime(2025, 1, 1, tzinfo=UTC)
# Of files and folders.
_NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9_.+-]{0,199}")
