"""Timing many cells at once: live processes take short slices in turns, in shuffled rounds. No torch.

A machine's speed changes from second to second and a little from process to process, and one stretch in one process
sees neither (docs/evidence/slices.md). So each subject is timed by several processes, one after the other, each forked
from a server of its own, and in each by slices that are seconds apart, between which the other subjects have theirs.
How many slices and processes there are follows from how much each varies on this machine, and what each costs.
"""

import math
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec
import psutil
from msgspec import Struct
from msgspec.structs import replace

from fashiontl.core.case import Settings
from fashiontl.core.metrics import METRICS, Measurement, Slices
from fashiontl.core.slices import (
    Components,
    Prior,
    Series,
    allocation,
    common_effects,
    components,
    half_width_of,
    is_sound,
    log_interval,
    prior_of,
    processes_needed,
    session_drift,
)
from fashiontl.core.states import undisturbed_speed
from fashiontl.machine.devices import Device
from fashiontl.machine.disturbance import Reference, SliceConditions, Usage, Watch, by_reason, columns, marks, told
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.live import EndedError, LiveProcess
from fashiontl.runner.messages import REFERENCE, CaseJob, PhaseResult, Progress, SlicesJob
from fashiontl.runner.subjects import SECONDARY, Subject

# Slices of the only process of a subject, and of the first of several; how many later ones take follows from what these
# show. Once a subject has had its processes, as many more at a time.
_FIRST, _LATER = 4, 8
# Slices of a later process: two show how they vary, and more than some dozens are of few moments.
_FEWEST, _MOST = 2, 48
# What a machine at rest may show of a slice before any was taken twice, as a standard deviation; and Student's quantile
# of the few degrees of freedom that there are.
_USUAL, _QUANTILE = 0.1, 2.2
# Of the slices that may be taken while the machine was slowed down; past it the rest is no fair sample.
_MOST_THROTTLED = 0.2
# A slice that is held up by others may take minutes.
_MOST_CHARGED = 4
# Of the memory that there is, a share that stays free while processes are kept alive.
_FREE = 0.15
_DIGITS = 6


class Taken(Struct, frozen=True, omit_defaults=True):
    """One slice, as it is kept in the run's journal.

    Attributes:
        subject: its key.
        process: number of the process, from 0, in the order of time.
        round: number of the round, counted over all processes.
        started: seconds since 1970.
        values: seconds a call, of each call or block of calls.
        device: the same in the device's own time.
        parts: seconds of each part of a training step.
        periods: median seconds of each period of a policy that changes over the epochs.
        conditions: what was read of the machine meanwhile.
    """

    subject: str
    metric: str
    process: int
    round: int
    started: float
    values: tuple[float, ...]
    device: tuple[float, ...] = ()
    parts: dict[str, tuple[float, ...]] = {}
    periods: tuple[float, ...] = ()
    conditions: SliceConditions | None = None


class Journal:
    """The slices of a run, each written as it is taken, so that a run which is ended loses one at most.

    Its first line are the settings, by which `fashiontl.records.resumable` finds a run that has no record yet.

    Args:
        path: of the file; its folder is made when the first slice is written.
        settings: of the run.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings

    def read(self) -> list[Taken]:
        """The slices that are there; the settings, and a line that was cut off, are left out."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(msgspec.json.decode(line, type=Taken))
            except msgspec.DecodeError:
                continue
        return found

    def write(self, taken: Taken) -> None:
        """Add a slice."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if end := file.seek(0, os.SEEK_END):
                file.seek(end - 1)
                # After a line that was cut off.
                file.write(b"" if file.read() == b"\n" else b"\n")
            else:
                file.write(msgspec.json.encode(self._settings) + b"\n")
            file.write(msgspec.json.encode(taken) + b"\n")

    def forget(self) -> None:
        """Remove the file: every cell of it has its record."""
        self._path.unlink(missing_ok=True)


@dataclass
class Timing:
    """What is known of one metric of one subject.

    Attributes:
        slices: in the order of time.
        warm_ups: how those of its processes went.
        seconds: that slices took.
        warming: seconds that warm-ups took.
        marks: why slices are disturbed, one text a slice; empty where one is not.
        common: what each round did to all cells alike, as the logarithm of a factor.
    """

    slices: list[Taken] = field(default_factory=list)
    warm_ups: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    warming: float = 0.0
    marks: list[str] = field(default_factory=list)
    common: Mapping[int, float] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """Seconds that count towards the budget."""
        return self.seconds + self.warming

    @property
    def processes(self) -> set[int]:
        """Those that have taken slices."""
        return {each.process for each in self.slices}

    @property
    def sound(self) -> list[Taken]:
        """Slices that are not disturbed."""
        unmarked = [""] * (len(self.slices) - len(self.marks))
        return [each for each, mark in zip(self.slices, self.marks + unmarked, strict=True) if not mark]

    def charge(self, seconds: float) -> None:
        """Count a slice's time towards the budget; of one that was held up, no more than several usual ones."""
        usual = self.seconds / len(self.slices) if len(self.slices) >= _FIRST else math.inf
        self.seconds += min(seconds, _MOST_CHARGED * usual)

    def series(self) -> Series:
        """The slices on which the number rests, as `fashiontl.core.slices.used_series` chooses them."""
        sound = self.sound
        enough = is_sound([each.process for each in sound], [each.process for each in self.slices])
        return _series(sound if enough else self.slices, self.common)

    @property
    def every(self) -> Series:
        """All slices, as they were taken."""
        return _series(self.slices, {})


def _series(kept: Sequence[Taken], common: Mapping[int, float]) -> Series:
    return Series(
        tuple(math.log(median(each.values)) - common.get(each.round, 0.0) for each in kept),
        tuple(each.process for each in kept),
        tuple(each.round for each in kept),
    )


@dataclass
class _Batch:
    """Processes that are alive at the same time.

    Attributes:
        reference: that of the reference mix.
        is_alone: whether it is for one subject that was out of memory beside others.
        alive: those of subjects.
        again: subjects that ran out of memory beside others.
    """

    reference: LiveProcess
    is_alone: bool
    alive: dict[Subject, LiveProcess] = field(default_factory=dict)
    again: list[Subject] = field(default_factory=list)


class Rounds:
    """Times subjects of one device.

    Args:
        settings: how.
        job: of any case, from which those of the subjects are made.
        servers: makes the server of a number of process.
        journal: where slices are kept as they come.
        group: name under which rounds are counted.
        clock, sleep: for tests.
        seed: of the order of turns; drawn where it is not given.
    """

    def __init__(
        self,
        settings: Settings,
        job: CaseJob,
        servers: Callable[[int], AbstractContextManager[Worker]],
        journal: Journal,
        group: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        seed: int | None = None,
    ) -> None:
        self.group = group
        self._watch = Watch(Device.of(job.case.device))
        self._references: list[Reference] = []
        self.failures: dict[str, Outcome[Any]] = {}
        self.timings: dict[tuple[str, str], Timing] = defaultdict(Timing)
        self._settings = settings
        self._job = job
        self._servers = servers
        self._journal = journal
        self._progress: Progress = lambda text: None
        self._clock = clock
        self._sleep = sleep
        self.seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        self._draw = random.Random(self.seed)
        self._process = self._round = 0
        for taken in journal.read():
            timing = self.timings[taken.subject, taken.metric]
            timing.charge(taken.conditions.seconds if taken.conditions else sum(taken.values))
            timing.slices.append(taken)
            self._process = max(self._process, taken.process + 1)
            self._round = max(self._round, taken.round + 1)
        self._judge()

    def measure(self, subjects: Sequence[Subject], progress: Progress = lambda text: None) -> None:
        """Take slices of subjects until each is precise, or its budget is spent.

        One whose process ends before it was told to has a failure in its place; what was measured of it stays.

        Raises:
            FashiontlError: a server cannot start.
        """
        self._progress = progress
        while wanted := self._wanted(subjects):
            with self._servers(self._process) as worker, tempfile.TemporaryDirectory(prefix="fashiontl-") as folder:
                left = list(wanted)
                alone: list[Subject] = []
                while left:
                    left, again = self._batch(worker, Path(folder), left, wanted)
                    alone += again
                for subject in alone:
                    self._batch(worker, Path(folder), [subject], wanted, is_alone=True)
            self._process += 1

    def _wanted(self, subjects: Sequence[Subject], *, more: bool = False) -> dict[Subject, dict[str, int]]:
        """How many slices each subject's next process takes of each metric, or with `more` the one that runs.

        Those that want none are left out.
        """
        found: dict[Subject, dict[str, int]] = {}
        prior = self._prior(subjects)
        for metric in dict.fromkeys(metric for subject in subjects for metric in subject.metrics):
            sound = [each for each in subjects if metric in each.metrics and each.key not in self.failures]
            timings = [self.timings[each.key, metric] for each in sound]
            parts = components([each.series() for each in timings if each.slices])
            for subject, timing in zip(sound, timings, strict=True):
                count = self._slices_of(timing, prior, parts, more=more)
                if metric in SECONDARY:
                    # It costs as much as the step that does not load its data, and differs from that by little.
                    count = math.ceil(count / 2) if len(timing.processes) < self._settings.processes else 0
                if count:
                    found.setdefault(subject, {})[metric] = count
        return found

    def _prior(self, subjects: Sequence[Subject]) -> Prior | None:
        """What all cells say together of how alike the slices of a process are, which no unit depends on."""
        return prior_of(
            [
                timing.series()
                for subject in subjects
                for metric in subject.metrics
                if metric not in SECONDARY and (timing := self.timings.get((subject.key, metric))) and timing.slices
            ]
        )

    def _slices_of(self, timing: Timing, prior: Prior | None, parts: Components | None, *, more: bool) -> int:
        settings = self._settings
        if not timing.slices:
            # Processes of many slices and of few are worth little more than the latter.
            return _LATER if settings.processes > 1 else _FIRST
        left = settings.processes - len(timing.processes)
        each = max(timing.seconds / len(timing.slices), 1e-3)
        warming = max(timing.warming / max(1, len(timing.warm_ups)), 1e-3)
        if left <= 0:
            known = len({taken.process for taken in timing.sound}) >= min(2, settings.processes)
            is_precise = known and self._width(timing, prior) <= settings.half_width
            if is_precise or timing.spent + each + (0 if more else warming) > settings.budget:
                return 0
        # More slices of one process are worth less the more processes differ.
        room = allocation(parts, warming, each, most=_MOST) if parts else _LATER
        if more:
            taken = sum(slice_.process == self._process for slice_ in timing.slices)
            # What this process takes no slices of has not been warmed up in it.
            more_here = min(room - taken, _LATER, int((settings.budget - timing.spent) / each))
            return max(0, more_here) if taken and left <= 0 else 0
        left = max(1, left)
        needed = _slices_needed(timing.series(), parts, settings.half_width) - len(timing.sound)
        affordable = (settings.budget - timing.spent - left * warming) / each
        return max(_FEWEST, min(room, math.ceil(min(needed, affordable) / left)))

    def _width(self, timing: Timing, prior: Prior | None) -> float:
        return half_width_of(log_interval(timing.series(), prior))

    def _batch(
        self,
        worker: Worker,
        folder: Path,
        subjects: Sequence[Subject],
        wanted: dict[Subject, dict[str, int]],
        *,
        is_alone: bool = False,
    ) -> tuple[list[Subject], list[Subject]]:
        """Keep processes of subjects alive, as many as there is memory for, and take the slices that are wanted.

        Returns:
            Subjects that there was no memory for, and those that ran out of it beside others.
        """
        waiting = list(subjects)
        with ExitStack() as stack:
            reference = LiveProcess(worker, self._job_of(subjects[0]), folder, self._settings.timeout)
            stack.push(reference)
            batch = _Batch(reference, is_alone)
            while waiting and (not batch.alive or _has_memory()):
                subject = waiting.pop(0)
                self._progress(f"warming up for timing, process {self._process + 1}: {subject.key}")
                process = stack.enter_context(
                    LiveProcess(worker, self._job_of(subject), folder, self._settings.timeout)
                )
                try:
                    for metric in wanted[subject]:
                        started = self._clock()
                        timing = self.timings[subject.key, metric]
                        timing.warm_ups.append(process.warm(metric))
                        timing.warming += self._clock() - started
                    batch.alive[subject] = process
                except EndedError as error:
                    process.close(wait=False)
                    self._fails(subject, error, batch)
            self._take(batch, wanted)
        return waiting, batch.again

    def _judge(self) -> None:
        """Mark slices that were disturbed, and find what rounds did to all cells alike."""
        timings = list(self.timings.values())
        for timing in timings:
            known = [each.conditions for each in timing.slices if each.conditions]
            if len(known) == len(timing.slices):
                timing.marks = marks(known, self._references, cores=self._watch.cores)
        effects = common_effects([timing.every for timing in timings])
        # The level is that of rounds in which the machine was itself.
        sound = Counter(taken.round for timing in timings for taken in timing.sound)
        every = Counter(taken.round for timing in timings for taken in timing.slices)
        quiet = [effects[round_] for round_ in effects if 2 * sound[round_] > every[round_]]
        level = fmean(quiet) if quiet else 0.0
        for timing in timings:
            timing.common = {round_: effect - level for round_, effect in effects.items()}

    def _take(self, batch: _Batch, wanted: dict[Subject, dict[str, int]]) -> None:
        while wanted:
            self._rounds_of(batch, wanted)
            self._judge()
            # Once a subject has had its processes, the last goes on until the numbers are precise.
            wanted = self._wanted(list(batch.alive), more=True)

    def _rounds_of(self, batch: _Batch, wanted: dict[Subject, dict[str, int]]) -> None:
        alive = batch.alive
        rounds = max((max(wanted[subject].values()) for subject in alive if subject in wanted), default=0)
        for number in range(rounds):
            self._progress(f"timing, process {self._process + 1}, round {number + 1} of {rounds}")
            started = self._clock()
            turns = [
                (each, metric) for each in alive for metric, count in wanted.get(each, {}).items() if number < count
            ]
            if not turns:
                return
            self._draw.shuffle(turns)
            self._refer(batch.reference)
            for subject, metric in turns:
                if subject in alive:
                    try:
                        self._slice(alive[subject], subject, metric)
                    except EndedError as error:
                        alive.pop(subject).close(wait=False)
                        self._fails(subject, error, batch)
            if number == rounds - 1:
                self._refer(batch.reference)
            self._round += 1
            # A state of the machine lasts about a second: slices of one subject should see several.
            idle = max(0.0, started + self._settings.spacing - self._clock())
            self._sleep(idle)
            for subject, metric in turns:
                self.timings[subject.key, metric].seconds += idle / len(turns)

    def _refer(self, process: LiveProcess) -> None:
        """Time the reference mix; without it, slices are judged by the rest of what is known."""
        started = self._clock()
        with suppress(EndedError):
            self._references.append(Reference(started, process.slice(REFERENCE)["seconds"]))

    def _slice(self, process: LiveProcess, subject: Subject, metric: str) -> None:
        started = self._clock()
        self._watch.begin()
        answer = process.slice(metric)
        conditions = self._watch.end(msgspec.convert(answer["usage"], Usage))
        timing = self.timings[subject.key, metric]
        timing.charge(self._clock() - started)
        taken = Taken(
            subject.key,
            metric,
            self._process,
            self._round,
            round(started, 3),
            tuple(answer["values"]),
            tuple(answer["device"]),
            {name: tuple(values) for name, values in answer["parts"].items()},
            tuple(answer.get("periods", ())),
            replace(conditions, throttled=max(conditions.throttled, float(answer["throttled"]))),
        )
        timing.slices.append(taken)
        self._journal.write(taken)

    def _fails(self, subject: Subject, error: EndedError, batch: _Batch) -> None:
        # What is out of memory beside others may well run alone.
        if error.outcome.status == "oom" and batch.alive and not batch.is_alone:
            batch.again.append(subject)
        else:
            self.failures[subject.key] = error.outcome

    def _job_of(self, subject: Subject) -> SlicesJob:
        job = self._job
        return SlicesJob(subject.case, self._settings, job.cache, job.extensions)

    def failure(self, cell: str, subjects: Sequence[Subject]) -> Outcome[Any] | None:
        """How the first process of a cell's subjects ended that ended before its time."""
        keys = [subject.key for subject in subjects if cell in subject.cells]
        return next((self.failures[key] for key in keys if key in self.failures), None)

    def seconds(self, cell: str, subjects: Sequence[Subject]) -> float:
        """A cell's share of the time that its subjects took."""
        return sum(
            timing.spent / len(subject.cells)
            for subject in subjects
            if cell in subject.cells
            for metric in subject.metrics
            if (timing := self.timings.get((subject.key, metric)))
        )

    def add_to(self, result: PhaseResult, cell: str, subjects: Sequence[Subject], images: int) -> None:
        """Add what was measured for a cell to its record.

        Args:
            result: of the cell.
            cell: its id.
            subjects: of all cells.
            images: that a step of the throughput measurements has.
        """
        prior = self._prior(subjects)
        for subject in subjects:
            if cell in subject.cells:
                for metric in subject.metrics:
                    if (timing := self.timings.get((subject.key, metric))) and timing.slices:
                        self._add(result, subject, metric, timing, images, prior)
        result.provenance["order"] = self.seed
        drift = session_drift([timing.every for timing in self.timings.values()])
        if drift and drift.seen:
            how = "slower" if drift.change > 0 else "faster"
            result.warnings.append(f"all cells became {abs(drift.change):.0%} {how} while they were timed")

    def _add(
        self,
        result: PhaseResult,
        subject: Subject,
        metric: str,
        timing: Timing,
        images: int,
        prior: Prior | None,
    ) -> None:
        kept = self._slices(subject, timing, prior)
        seconds = [each.values for each in timing.slices]
        if metric == "latency":
            _measure(result, "latency", seconds, kept)
            if all(each.device for each in timing.slices):
                _measure(result, "device_latency", [each.device for each in timing.slices], kept)
        else:
            # What is common is of seconds.
            inverse = replace(kept, common=tuple(-shift for shift in kept.common))
            _measure(result, metric, [[images / value for value in values] for values in seconds], inverse)
        if metric == "end_to_end_throughput":
            for part in timing.slices[0].parts:
                _measure(result, f"step_{part}_time", [each.parts[part] for each in timing.slices], kept)
        width = self._width(timing, prior)
        is_precise = width <= self._settings.half_width
        result.loops.setdefault("timing", {})[metric] = {
            "warm_up": sum(each["calls"] for each in timing.warm_ups),
            "steady": all(each["steady"] for each in timing.warm_ups),
            "ended": "precise" if is_precise else "budget",
            "half_width": width if math.isfinite(width) else None,
            "seconds": round(timing.seconds, 3),
            "warming": round(timing.warming, 3),
        }
        label = metric.replace("_", " ")
        throttled = sum(bool(each.conditions and each.conditions.throttled) for each in timing.slices)
        if throttled > _MOST_THROTTLED * len(timing.slices):
            result.invalid.append(
                f"{label}: {throttled} of {len(timing.slices)} slices were taken while the machine was throttled; cool "
                "it, or raise its limit, and measure again"
            )
        result.warnings += [f"{label}: {line}" for line in told(kept.disturbed, kept.conditions, len(timing.slices))]
        measured = result.measurement(metric)
        if measured and (fast := undisturbed_speed(measured)) is not None:
            kind = METRICS[metric]
            result.warnings.append(
                f"{label}: slices fall into two clear states of the machine; in the faster one it is "
                f"{kind.scale * fast:.4g}, in the unit of {kind.label}"
            )
        if not is_precise and math.isfinite(width):
            result.warnings.append(f"{label} is known to ± {100 * width:.1f} %{self._remedy(timing, prior)}")

    def _remedy(self, timing: Timing, prior: Prior | None) -> str:
        """How much longer would do; empty where that is not known."""
        more = processes_needed(timing.series(), prior, self._settings.half_width)
        if not more:
            return ""
        seconds = more * timing.spent / len(timing.processes)
        return (
            f"; about {seconds:.0f} s more would make it ± {100 * self._settings.half_width:g} %: "
            f"--set budget={math.ceil(timing.spent + seconds)}"
        )

    def _slices(self, subject: Subject, timing: Timing, prior: Prior | None) -> Slices:
        known = [each.conditions for each in timing.slices if each.conditions]
        first = min((each.started for every in self.timings.values() for each in every.slices), default=0.0)
        return Slices(
            self.group,
            tuple(len(each.values) for each in timing.slices),
            tuple(each.process for each in timing.slices),
            tuple(each.round for each in timing.slices),
            tuple(round(each.started - first, 2) for each in timing.slices),
            by_reason(timing.marks),
            columns(known) if len(known) == len(timing.slices) else {},
            (prior.ratio, prior.freedom) if prior else None,
            subject.cells if len(subject.cells) > 1 else (),
            tuple(_short(timing.common.get(each.round, 0.0)) for each in timing.slices) if timing.common else (),
        )


def _slices_needed(series: Series, parts: Components | None, half_width: float) -> int:
    """How many slices a mean takes to be known to ± `half_width`, if processes do not differ."""
    own = components([series])
    spread = math.sqrt(own.slices if own and own.slice_freedom >= _LATER else parts.slices if parts else _USUAL**2)
    return math.ceil((_QUANTILE * spread / math.log1p(half_width)) ** 2)


def _measure(result: PhaseResult, metric: str, values: Sequence[Sequence[float]], slices: Slices) -> None:
    counts = tuple(map(len, values))
    flat = tuple(_short(value) for each in values for value in each)
    result.measurements.append(Measurement(METRICS[metric].name, flat, slices=replace(slices, counts=counts)))


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _has_memory() -> bool:
    memory = psutil.virtual_memory()
    return memory.available > _FREE * memory.total
