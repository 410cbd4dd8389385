"""`fashiontl baseline add|list|show|prune`: each does its work and answers with a text. No torch."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median, stdev

from fashiontl.core.case import Settings
from fashiontl.core.errors import FashiontlError, unwritable
from fashiontl.core.escape import LONGEST_NAME, to_line
from fashiontl.core.files import write_atomically
from fashiontl.core.metrics import METRICS
from fashiontl.gate.baselines import (
    FEWEST,
    MAKE_ONE,
    Baseline,
    baseline_of,
    baseline_path,
    counted,
    group,
    independent,
    is_sound,
    newest_run,
    read_baselines,
)
from fashiontl.gate.limits import LIMITS
from fashiontl.gate.strict import write_strictly
from fashiontl.records import Record, latest, read_file


def add(results: Path, run: Path | None = None) -> str:
    """Keep what a run measured as a baseline of its machine.

    Args:
        results: folder of the results.
        run: the run's file; None takes the newest run of the results.

    Returns:
        What was kept, what was left out, and how many runs the stored mode has now and needs.

    Raises:
        FashiontlError: there is no run, it cannot be read whole, holds nothing sound, or is a baseline already.
    """
    path = run or newest_run(results)
    records, faults = read_file(path)
    if faults:
        raise FashiontlError("\n".join(faults))
    made = [baseline_of(own) for own in _by_machine(latest(records)).values() if any(map(is_sound, own))]
    if not made:
        raise FashiontlError(f"expected a run with a case that went well, got {path}; name another with --run FILE")
    paths = [baseline_path(results, baseline) for baseline in made]
    if taken := [str(path) for path in paths if path.exists()]:
        raise FashiontlError(f"{', '.join(taken)}: this run is a baseline already, and baselines never change")
    lines = []
    for baseline, place in zip(made, paths, strict=True):
        try:
            write_atomically(place, write_strictly(baseline, str(place)).encode() + b"\n")
        except OSError as error:
            raise FashiontlError(unwritable(place, error)) from error
        lines.append(f"added {place}: {counted(len(baseline.cells), 'cell')}")
    lines += [
        to_line(f"left out {record.id}: {record.status}: {record.reason}") for record in records if not is_sound(record)
    ]
    before = read_baselines(results).baselines
    for baseline in made:
        alike = [each for each in before if group(each) == group(baseline)]
        apart = counted(len(independent(alike)), "independent run")
        lines.append(f"{baseline.machine} has {apart}; timings need {FEWEST}")
    return "\n".join(lines)


def listed(results: Path) -> str:
    """Each machine's baselines: how many, of how many cells, from when to when."""
    from tabulate import tabulate

    found = read_baselines(results)
    rows = [
        (to_line(own[0].machine), to_line(own[-1].settings.preset), len(own), len(independent(own)), len(_cells(own)),
         f"{own[0].time:%Y-%m-%d %H:%M}", f"{own[-1].time:%Y-%m-%d %H:%M}")
        for own in _groups(found.baselines)
    ]  # fmt: skip
    header = ("machine", "preset", "runs", "independent", "cells", "from (UTC)", "to (UTC)")
    return _answer(results, [tabulate(rows, header, disable_numparse=True)] if rows else [], found.faults)


def shown(results: Path, machine: str = "") -> str:
    """Each cell and metric that is judged: its median over the runs, and the spread between them.

    Args:
        results: folder of the results.
        machine: beginning of the key of the machine; all when empty.
    """
    from tabulate import tabulate

    found = read_baselines(results)
    parts = []
    for own in _groups(each for each in found.baselines if each.machine.startswith(machine)):
        rows = [row for cell in _cells(own) for row in _rows(cell, own)]
        title = to_line(f"{own[0].machine}, {own[-1].settings.preset}: {counted(len(own), 'run')}")
        header = ("cell", "metric", "runs", "median", "spread")
        align = ("left", "left", "right", "right", "right")
        parts.append(f"{title}\n" + tabulate(rows, header, disable_numparse=True, colalign=align))
    return _answer(results, parts, found.faults)


def prune(results: Path, keep: int, *, yes: bool = False) -> str:
    """Remove all but the newest baselines of each machine and set of settings.

    Args:
        results: folder of the results.
        keep: how many to keep, 1 or more.
        yes: without it nothing is removed, and the answer says what would be.

    Returns:
        Each file; files that could not be read are named and left alone.

    Raises:
        FashiontlError: `keep` is below 1, or a file cannot be removed.
    """
    if keep < 1:
        raise FashiontlError(f"expected 1 or more baselines to keep, got {keep}")
    found = read_baselines(results)
    lines = []
    for own in _groups(found.baselines):
        for baseline in own[:-keep]:
            path = baseline_path(results, baseline)
            lines.append(f"{'removed' if yes else 'would remove'} {path}")
            if yes:
                _remove(path)
        if own[:-keep] and len(independent(own[-keep:])) < FEWEST:
            lines.append(f"{own[0].machine}: fewer than {FEWEST} independent runs stay, too few to judge timings")
    if not lines:
        lines.append("nothing to remove")
    elif not yes:
        lines.append("nothing was removed; repeat it with --yes")
    return "\n".join([*lines, *(f"not read: {fault}" for fault in found.faults)])


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise FashiontlError(f"expected a file that can be removed, got {path}: {error.strerror}; free it") from error


def _by_machine(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.machine, []).append(record)
    return found


def _groups(baselines: Iterable[Baseline]) -> list[list[Baseline]]:
    """Baselines that may be compared stand together, in the order of time."""
    found: dict[tuple[str, Settings], list[Baseline]] = {}
    for baseline in baselines:
        found.setdefault(group(baseline), []).append(baseline)
    return list(found.values())


def _cells(baselines: Iterable[Baseline]) -> list[str]:
    return list(dict.fromkeys(cell for baseline in baselines for cell in baseline.cells))


def _rows(cell: str, baselines: Sequence[Baseline]) -> Iterable[tuple[str, ...]]:
    """A line a metric; the cell's name stands in the first."""
    name = to_line(cell, LONGEST_NAME)
    for metric in LIMITS:
        values = [own[metric] for each in baselines if metric in (own := each.cells.get(cell, {}))]
        if values:
            scale = METRICS[metric].scale
            yield (
                name,
                METRICS[metric].label,
                str(len(values)),
                f"{median(values) * scale:.4g}",
                _spread(metric, values),
            )
            name = ""


def _spread(metric: str, values: Sequence[float]) -> str:
    """The standard deviation between runs: of logarithms, so relative; of accuracy as it is."""
    if len(set(values)) == 1:
        return "none" if len(values) > 1 else "—"
    if LIMITS[metric].kind == "exact":
        return "differs"
    if LIMITS[metric].kind == "accuracy":
        return f"{100 * stdev(values):.2f} points"
    return f"{100 * stdev(map(math.log, values)):.1f} %" if min(values) > 0 else "—"


def _answer(results: Path, parts: Sequence[str], faults: Sequence[str]) -> str:
    """Tables, or what to do when there are none, and what could not be read."""
    nothing = f"no baselines under {results / 'baselines'}; make one: {MAKE_ONE}"
    return "\n\n".join([*(parts or [nothing]), *(f"not read: {fault}" for fault in faults)])
