"""Baselines: what earlier runs of a machine measured, one immutable file a run, for the stored mode. No torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from fashiontl.core.case import Settings
from fashiontl.core.errors import FashiontlError, brief, no_file
from fashiontl.core.metrics import METRICS
from fashiontl.gate.strict import read_strictly
from fashiontl.records import Record, meaning
from fashiontl.records.sense import time_fault

SCHEMA = 1

# How far apart two runs begin that count as independent. Runs that follow each other share what a machine keeps for
# minutes: heat, a neighbour's load, a cache. A restart would separate them as well, but records do not tell of it.
APART = timedelta(hours=1)
# With seven degrees of freedom the 99 % bound is 3.2 deviations away; with three runs it would be 8.
FEWEST = 8

MAKE_ONE = "pytest bench/ && fashiontl baseline add"


@dataclass(frozen=True)
class Baseline:
    """What one run measured on one machine.

    Attributes:
        schema: `SCHEMA`.
        machine: key of the machine.
        run: name of the run.
        commit: full SHA-1 of what was measured, None outside of git.
        dirty: whether tracked files differed from it; None outside of git.
        started: when its first case started, ISO 8601 in UTC.
        command: what was typed.
        settings: how it measured.
        cells: id of each case that went well to its numbers: metric to median in base units (accuracy: the mean over
            seeds).
    """

    schema: int
    machine: str
    run: str
    commit: str | None
    dirty: bool | None
    started: str
    command: str
    settings: Settings
    cells: dict[str, dict[str, float]]

    @property
    def time(self) -> datetime:
        """When it started."""
        return datetime.fromisoformat(self.started)


class Baselines(NamedTuple):
    """Baselines, and what could not be read: one `file: what` each."""

    baselines: tuple[Baseline, ...]
    faults: tuple[str, ...]


def numbers_of(record: Record) -> dict[str, float]:
    """The number of each metric that a record has: the median of its values, of accuracy the mean."""
    known = [measurement for measurement in record.measurements if measurement.values]
    return {each.metric: float((fmean if each.metric == "accuracy" else median)(each.values)) for each in known}


def independent(baselines: Iterable[Baseline]) -> list[Baseline]:
    """The most that began at least `APART` from each other, from the newest back."""
    kept: list[Baseline] = []
    for baseline in sorted(baselines, key=lambda each: each.time, reverse=True):
        if not kept or kept[-1].time - baseline.time >= APART:
            kept.append(baseline)
    return kept


def read_baselines(results: Path) -> Baselines:
    """All baselines of all machines, in the order of machines and times; a file with a fault counts for nothing."""
    found, faults = [], []
    for path in sorted((results / "baselines").glob("*/*.json")):
        try:
            found.append(_read(path))
        except FashiontlError as error:
            faults.append(str(error))
    return Baselines(tuple(sorted(found, key=lambda each: (each.machine, each.time, each.run))), tuple(faults))


def newest_run(results: Path) -> Path:
    """The newest run of the results.

    Raises:
        FashiontlError: there is none.
    """
    # A run's name begins with its time.
    paths = sorted((results / "runs").glob("*/*.jsonl"), key=lambda path: path.name)
    if not paths:
        raise FashiontlError(
            f"expected runs under {results / 'runs'}, got none; run pytest bench/ --results {results} first, or name a "
            "run with --run FILE"
        )
    return paths[-1]


def baseline_of(records: Sequence[Record]) -> Baseline:
    """The baseline of a run's records on one machine; those that are not sound are left out.

    Raises:
        FashiontlError: the records are of several runs or were measured with settings that mean different things.
    """
    first = min(records, key=lambda record: record.started)
    if len({(record.run, meaning(record.settings)) for record in records}) > 1:
        raise FashiontlError(f"expected one run with one set of settings, got several in {first.run}; add each alone")
    return Baseline(
        SCHEMA,
        first.machine,
        first.run,
        first.environment.git_sha,
        first.environment.git_dirty,
        first.started,
        first.command,
        first.settings,
        {record.id: numbers_of(record) for record in records if is_sound(record)},
    )


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(2, "run")
    ('1 run', '2 runs')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def _read(path: Path) -> Baseline:
    next_step = "restore it from git or delete it"
    if kind := no_file(path):
        raise FashiontlError(f"{path}: expected a baseline, got {kind}; {next_step}")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FashiontlError(f"{path}: expected a baseline, got: {error.strerror}; {next_step}") from error
    found = read_strictly(Baseline, SCHEMA, text, str(path), next_step)
    faults = [f"field cells: unknown metric {name!r}" for name in _metrics(found.cells) if name not in METRICS]
    faults += _number_faults(found.cells)
    if fault := time_fault(found.started):
        faults.append(fault)
    if (found.machine, f"{found.run}.json") != (path.parent.name, path.name):
        faults.append(f"expected the place {found.machine}/{found.run}.json, which is where its own fields put it")
    if faults:
        raise FashiontlError(f"{path}: {'; '.join(faults)}; {next_step}")
    return found


def _number_faults(cells: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for cell, numbers in cells.items():
        for name, value in numbers.items():
            metric = METRICS.get(name)
            if metric and not metric.least <= value <= metric.most:
                expected = f"expected a number from {metric.least:g} to {metric.most:g}"
                yield f"field cells.{cell}.{name}: {expected}, got {brief(value)}"


def baseline_path(results: Path, baseline: Baseline) -> Path:
    """Its file."""
    return results / "baselines" / baseline.machine / f"{baseline.run}.json"


def is_sound(record: Record) -> bool:
    """Whether a record's numbers may be kept."""
    return record.status == "ok"


def group(baseline: Baseline) -> tuple[str, Settings]:
    """What two baselines must have in common to be compared."""
    return baseline.machine, meaning(baseline.settings)


def _metrics(cells: Mapping[str, Mapping[str, float]]) -> set[str]:
    return {metric for numbers in cells.values() for metric in numbers}
