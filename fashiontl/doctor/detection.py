"""How small a difference between two cells a device shows, found by timing the same network against itself."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.metrics import Measurement
from fashiontl.core.slices import Components, Series, allocation, components, difference, used_series
from fashiontl.core.stats import Interval, smallest_difference
from fashiontl.doctor.findings import Line, Section
from fashiontl.machine.devices import Device
from fashiontl.machine.disturbance import told
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import CaseJob, PhaseResult, Progress
from fashiontl.runner.rounds import Journal, Rounds
from fashiontl.runner.subjects import Subject

MINUTES = (5, 15, 60)
# Of the smallest difference that a run of some minutes shows: up to the first it serves most changes of code, past the
# second none.
_JUDGED, _FINE, _USELESS = 15, 0.05, 0.5
# The fewest processes a side from which a spread is known at all.
LEAST_PROCESSES = 2
_IMAGES = 32


@dataclass(frozen=True)
class Network:
    """What is timed against itself.

    Attributes:
        size: what it is called here.
        metric: what is timed of it.
        what: the same for people.
        images: of a call.
    """

    size: str
    architecture: str
    metric: str
    what: str
    images: int


# Of the small one calls take milliseconds or less, most of it between operators; the large one fills the device.
NETWORKS = (
    Network("small", "resnet9", "latency", "inference of one image", 1),
    Network("large", "resnet18", "train_throughput", f"a training step of {_IMAGES} images", _IMAGES),
)


@dataclass(frozen=True)
class Sides:
    """A network's two sides, which do the same.

    Attributes:
        one, other: their slices, of which those that are marked are left out while there are others.
        seconds: of a call.
        marked: why slices of either were disturbed, for people.
        slices: how many there are of both.
    """

    one: Series
    other: Series
    seconds: float
    marked: tuple[str, ...] = ()
    slices: int = 0


def measure(
    device: Device,
    servers: Callable[[int], AbstractContextManager[Worker]],
    processes: int,
    progress: Progress = lambda text: None,
) -> tuple[dict[str, Sides], dict[str, str]]:
    """Time each of `NETWORKS` against itself in turns, as cells of a run are timed.

    Args:
        device: which is here.
        servers: makes the server of a number of process.
        processes: of each side.
        progress: is told what is going on.

    Returns:
        Sides by the network's size, and for those that could not be timed the reason.

    Raises:
        FashiontlError: a server cannot start.
    """
    settings = replace(PRESETS["quick"], processes=processes, budget=0.0, throughput_batch=_IMAGES)
    subjects, sides = [], ("one", "other")
    for network in NETWORKS:
        case = Case(network.architecture, "full", device.name, weights="none")
        subjects += [Subject(f"{network.size}, {side}", case, (network.metric,), (_cell(network, side),))
                     for side in sides]  # fmt: skip
    with TemporaryDirectory(prefix="fashiontl-") as folder:
        journal = Journal(Path(folder) / "journal.jsonl", settings)
        rounds = Rounds(settings, CaseJob(subjects[0].case, settings), servers, journal, "doctor")
        rounds.measure(subjects, progress)
    found, failed = {}, {}
    for network in NETWORKS:
        measured: list[Measurement] = []
        for side in sides:
            cell = _cell(network, side)
            if failure := rounds.failure(cell, subjects):
                failed[network.size] = failure.reason
            result = PhaseResult()
            rounds.add_to(result, cell, subjects, network.images)
            measured += [each for each in result.measurements if each.metric == network.metric]
        if network.size not in failed:
            found[network.size] = sides_of(network, *measured)
    return found, failed


def _cell(network: Network, side: str) -> str:
    return f"{network.size} {side}"


def sides_of(network: Network, one: Measurement, other: Measurement) -> Sides:
    """What two measurements of the same say, in seconds a call whatever their unit is."""
    first, second = (_in_seconds(side, network.images) for side in (one, other))
    marked: list[str] = []
    slices = 0
    for side in (one, other):
        if side.slices is not None:
            count = len(side.slices.counts)
            marked += told(side.slices.disturbed, side.slices.conditions, count)
            slices += count
    return Sides(first, second, math.exp(median((*first.logs, *second.logs))), tuple(marked), slices)


def _in_seconds(measurement: Measurement, images: int) -> Series:
    series = used_series(measurement)
    if measurement.unit != "images/s":
        return series
    return replace(series, logs=tuple(math.log(images) - log for log in series.logs))


@dataclass(frozen=True)
class Found:
    """What a network's two sides show of the device.

    Attributes:
        parts: how slices and processes differ; None where there are too few of them.
        itself: the logarithm of one side over the other.
        process_seconds: what a process of both sides costs, before its first slice.
        round_seconds: what a slice of both costs.
        smallest: of runs of so many minutes, the smallest relative difference that they show.
    """

    parts: Components | None
    itself: Interval
    process_seconds: float
    round_seconds: float
    smallest: Mapping[int, float | None]


def judge(sides: Sides) -> Found:
    """What two sides show."""
    parts = components([sides.one, sides.other])
    process, round_ = costs(sides.one)
    smallest = {minutes: detectable(parts, process, round_, 60.0 * minutes) for minutes in MINUTES}
    return Found(parts, difference(sides.one, sides.other), process, round_, smallest)


def costs(series: Series) -> tuple[float, float]:
    """Seconds that a process costs before its first slice, and that a round costs.

    Both are what it took here, with all that was timed beside the series; 0 where its slices' starts do not tell.
    """
    steps = list(pairwise(zip(series.starts, series.processes, strict=True))) if series.starts else []
    within = [after - before for (before, one), (after, other) in steps if one == other]
    between = [after - before for (before, one), (after, other) in steps if one != other]
    round_ = median(within) if within else 0.0
    return (max(0.0, median(between) - round_) if between else 0.0), round_


def detectable(parts: Components | None, process_seconds: float, round_seconds: float, seconds: float) -> float | None:
    """The smallest relative difference of two cells that a run of some seconds shows at 95 % with 80 % power.

    Each process takes as many slices as is best by `allocation`, and there are as many processes as fit. The two cells
    count as independent, which leaves out what they share by being timed in turns: a run may do a little better.

    Returns:
        0.02 for two per cent; None where nothing is known or two processes a side do not fit.
    """
    if parts is None or round_seconds <= 0:
        return None
    slices = allocation(parts, max(process_seconds, 1e-3), round_seconds)
    count = int(seconds / (process_seconds + slices * round_seconds))
    if count < LEAST_PROCESSES:
        return None
    deviation = math.sqrt(parts.processes + parts.slices / slices)
    return math.expm1(smallest_difference(deviation, count))


def section(sides: Mapping[str, Sides], failed: Mapping[str, str]) -> tuple[dict[str, Any], Section, str]:
    """What was found: for JSON, for people, and in a few words.

    Returns:
        By size the facts; the lines; and what runs show, empty where that is unknown.
    """
    facts: dict[str, Any] = {}
    lines: list[Line] = []
    worst: dict[int, list[float | None]] = {minutes: [] for minutes in MINUTES}
    for network in NETWORKS:
        named = partial(_named, network)
        if network.size in failed:
            lines.append(named("", "not timed", "bad", f"the {network.size} network: {failed[network.size]}"))
            continue
        side = sides[network.size]
        found = judge(side)
        facts[network.size] = _facts(network, side, found)
        lines += _lines(named, network, side, found)
        for minutes, smallest in found.smallest.items():
            worst[minutes].append(smallest)
    known = {
        minutes: max(value for value in values if value is not None)
        for minutes, values in worst.items()
        if values and None not in values
    }
    words = [f"{percent(smallest)} ({minutes} minutes)" for minutes, smallest in known.items()]
    shown = f"in a run of two cells, differences show from {', '.join(words)}" if words else ""
    return facts, Section("the same network against itself", tuple(lines)), shown


def _named(network: Network, name: str, *rest: Any) -> Line:
    return Line(f"{network.size}: {name}" if name else network.size, *rest)


def _lines(named: Callable[..., Line], network: Network, side: Sides, found: Found) -> list[Line]:
    counted = f"{len(side.one.logs)} and {len(side.other.logs)} slices, {len(side.one.by_process())} processes a side"
    lines = [named("", f"{network.architecture}, {network.what}: {side.seconds * 1e3:.3g} ms", "ok", counted)]
    lines += [
        named("disturbed", each, "note", "these slices are left out while there are others") for each in side.marked
    ]
    if found.parts is None:
        return [*lines, named("difference", "unknown", "bad", f"the {network.size} network was timed too few times")]
    spread = (percent(math.sqrt(variance)) for variance in (found.parts.slices, found.parts.processes))
    for what, value in zip(("slices", "processes"), spread, strict=True):
        lines.append(named(f"{what} differ by", value, "ok", "standard deviation of their logarithms"))
    lines.append(_itself(named, found.itself))
    smallest = found.smallest[_JUDGED]
    value = ", ".join(f"{percent(each)} in {minutes} min" for minutes, each in found.smallest.items() if each)
    verdict, advice = "ok", "95 % confidence, 80 % power"
    if smallest is None or smallest > _USELESS:
        seen = "nothing" if smallest is None else f"only {percent(smallest)}"
        verdict = "bad"
        advice = f"the same network differs so much from itself that {seen} shows in {_JUDGED} minutes; end other work"
    elif smallest > _FINE:
        verdict, advice = "note", "end other work, fix the clocks, or give a run more time (--set budget=SECONDS)"
    return [*lines, named("smallest difference", value or "unknown", verdict, advice)]


def _itself(named: Callable[..., Line], itself: Interval) -> Line:
    half = (itself.high - itself.low) / 2
    value = f"{math.expm1(itself.estimate):+.1%} ± {percent(math.expm1(half))}" if math.isfinite(half) else "unknown"
    if itself.low <= 0 <= itself.high:
        return named("against itself", value.replace("%", " %", 1))
    advice = "more than chance makes of the same thing in 19 of 20 examinations; run it again, with nothing beside it"
    return named("against itself", value.replace("%", " %", 1), "note", advice)


def _facts(network: Network, side: Sides, found: Found) -> dict[str, Any]:
    parts = found.parts
    return {
        "architecture": network.architecture,
        "metric": network.metric,
        "seconds": side.seconds,
        "slices": side.slices,
        "disturbed": list(side.marked),
        "processes": len(side.one.by_process()),
        "slice_deviation": parts and math.sqrt(parts.slices),
        "process_deviation": parts and math.sqrt(parts.processes),
        "log_ratio": [None if not math.isfinite(each) else each
                      for each in (found.itself.estimate, found.itself.low, found.itself.high)],
        "process_seconds": found.process_seconds,
        "round_seconds": found.round_seconds,
        "smallest_difference": {str(minutes): smallest for minutes, smallest in found.smallest.items()},
        "logs": [list(side.one.logs), list(side.other.logs)],
    }  # fmt: skip


def percent(share: float) -> str:
    """A share in per cent, with two digits or three.

    >>> percent(0.0234), percent(0.00456), percent(12.3)
    ('2.3 %', '0.46 %', '1230 %')
    """
    return f"{share * 100:.{2 if share < 0.01 else 1 if share < 0.1 else 0}f} %"
