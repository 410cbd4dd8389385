"""Running a gate: both trees head to head, cell by cell and trial by trial. No torch, but in its arms."""

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import msgspec

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.gate.arm import Arm, StoppedError, Turns
from fashiontl.gate.explain import explain
from fashiontl.gate.limits import COUNTED, TIMED, Limit, limit_of, processes_of
from fashiontl.gate.raw import SCHEMA, Answers, Asked, Counts, Failure, Raw, Series, Stage, Tree, Trial, Unavailable
from fashiontl.gate.raw import Arm as Name
from fashiontl.gate.result import Explained
from fashiontl.gate.sequential import LOOKS, next_action, thresholds
from fashiontl.gate.trees import base_tree, working_tree
from fashiontl.gate.trial import LEAST_ROUNDS, reference_kernel, take_trial
from fashiontl.gate.untimed import count, seeds_of, train
from fashiontl.machine.conditions import Observer
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import choose_threads, machine_key, read_environment
from fashiontl.machine.locks import alone_on
from fashiontl.matrix.options import as_timed
from fashiontl.runner.client import why_unavailable
from fashiontl.runner.messages import DEVICE, VARIANT, CaseJob, DeviceJob, Progress
from fashiontl.runner.variables import recorded, removed

Rule = Callable[[Sequence[Trial], Limit, int], Literal["screen", "confirm", "stop"]]


@dataclass(frozen=True)
class Order:
    """What a gate was asked for.

    Attributes:
        settings: how cases are run; an arm warms up in a trial for twice `seconds` at most.
        accuracy: whether they are trained and tested too.
        budget: the most seconds that it may take; 0 is no limit. What has started is finished.
        matrix: the options that meant these cases, as `fashiontl.matrix.options.matrix` takes them: `axes`, `preset`,
            `assignments` and `data_root`. The base is asked what they mean there, so that cases which the head lost
            are found.
        command: what was typed.
        timed: metrics to which the comparison is limited, counts left out; empty compares all.
        unchanged: whether the base may be what is in the working tree.
    """

    cases: Sequence[Case]
    settings: Settings
    accuracy: bool = False
    budget: float = 0.0
    matrix: Mapping[str, Any] | None = None
    command: str = ""
    timed: Sequence[str] = ()
    unchanged: bool = False


def stated(
    cells: Sequence[str],
    settings: Settings,
    commits: tuple[str | None, str | None],
    *,
    timed: Sequence[str] = (),
    accuracy: bool = False,
) -> Asked:
    """The statement of what a gate of these cells, of a base and a head, has to measure; the rest is as of `Order`."""
    return Asked(
        cells=tuple(cells),
        metrics=(*(timed or TIMED), *(() if timed else COUNTED), *(("accuracy",) if accuracy else ())),
        processes={cell: 0 if timed else processes_of(cell) for cell in cells},
        slices=2 * LEAST_ROUNDS,
        seeds=seeds_of(settings) if accuracy else 0,
        settings=asdict(settings),
        base=commits[0],
        head=commits[1],
        thresholds=thresholds(),
    )


@dataclass
class Gate:
    """A gate whose two arms have proved what they are; `opened_gate` makes it.

    Attributes:
        rule: says what to take next of a cell and metric.
        kernel: seconds of one run of the reference kernel.
        draw: the arm that begins a trial.
        clock: seconds, monotonic.
    """

    arms: Mapping[Name, Arm]
    trees: Mapping[Name, Tree]
    order: Order
    progress: Progress = lambda text: None
    rule: Rule = next_action
    kernel: Callable[[], float] = reference_kernel
    draw: Callable[[], Name] = lambda: random.SystemRandom().choice(("base", "head"))
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._cells: list[str] = []
        self._cases: dict[str, Case] = {}
        self._new: list[str] = []
        self._removed: list[str] = []
        self._trials: dict[tuple[str, str], list[Trial]] = defaultdict(list)
        self._costs: dict[str, list[float]] = defaultdict(list)
        self._counts: list[Counts] = []
        self._answers: list[Answers] = []
        self._failures: list[Failure] = []
        self._warnings: list[str] = []
        self._unavailable: list[Unavailable] = []
        self._unsteady: Counter[tuple[str, str]] = Counter()
        self._throttled: Counter[tuple[str, str]] = Counter()

    def measure(self) -> Raw:
        """Compare the arms; what was measured until something failed, time was up or a key was pressed is kept.

        Raises:
            FashiontlError: a case is in neither tree, or its device is not here.
        """
        order = self.order
        started = datetime.now(UTC)
        interrupted = False
        facts = self._devices()
        observers = [Observer(Device.of(device)) for device in facts]
        for observer in observers:
            observer.begin()
        try:
            self._find()
            self._count()
            self._train()
            self._time()
        except KeyboardInterrupt:
            interrupted = True
            text = f"interrupted after {self._elapsed():.0f} s: only what was measured until then is here"
            self._warnings.append(text)
        for observer in observers:
            self._warnings += observer.end().warnings
        accelerator = next((found for found in facts.values() if found), {})
        limit = choose_threads(order.settings.threads).limit
        given = self.arms["head"].variables
        environment = read_environment(
            accelerator,
            threads=self.arms["head"].threads,
            limit=limit,
            variables=recorded(given),
            removed=removed(given),
        )
        base, head = self.trees["base"], self.trees["head"]
        # An interrupt may come before the cells are found: those of the order are then all that is known.
        cells = list(dict.fromkeys([*self._cells, *self._removed])) or [case.id for case in order.cases]
        return Raw(
            schema=SCHEMA,
            started=started.isoformat(timespec="seconds"),
            seconds=self._elapsed(),
            command=order.command,
            machine=machine_key(environment),
            # Plain, as it is when it is read again.
            environment=msgspec.json.decode(msgspec.json.encode(environment)),
            base=base,
            head=head,
            cells=tuple(self._cells),
            new=tuple(self._new),
            removed=tuple(self._removed),
            budget=order.budget,
            series=tuple(self._series()),
            counts=tuple(self._counts),
            answers=tuple(self._answers),
            failures=tuple(self._failures),
            warnings=tuple(dict.fromkeys([*self._warnings, *self._slice_warnings()])),
            asked=stated(
                cells, order.settings, (base.commit, head.commit), timed=order.timed, accuracy=order.accuracy
            ),
            unavailable=tuple(self._unavailable),
            interrupted=interrupted,
        )  # fmt: skip

    def explain(self, regressed: Sequence[tuple[str, str]]) -> tuple[tuple[Explained, ...], tuple[str, ...]]:
        """Profile both arms in processes of their own: what grew, and sentences on what could not be explained."""
        found: list[Explained] = []
        warnings: list[str] = []
        for cell, case in self._cases.items():
            metrics = [metric for each, metric in regressed if each == cell and metric in TIMED]
            if metrics:
                explained, more = explain(self.arms, case, metrics, self.order.settings, self.progress)
                found += explained
                warnings += more
        return tuple(found), tuple(warnings)

    def _devices(self) -> dict[str, dict[str, str | None]]:
        """Facts of each device; every one must be here, and run its cases' variants."""
        facts, errors = {}, []
        for device in sorted({case.device for case in self.order.cases}):
            outcome = self.arms["head"].ask(DEVICE, DeviceJob(device))
            facts[device] = outcome.result.facts if outcome.result else {}
            if reason := why_unavailable(outcome):
                errors.append(f"expected a device that can be used, got {device}: {reason}; name others with --device")
        for case in self.order.cases if not errors else ():
            if case.variant:
                variant = self.arms["head"].ask(VARIANT, CaseJob(case, self.order.settings))
                if reason := why_unavailable(variant):
                    errors.append(f"expected a variant that can be run, got {case.id}: {reason}")
        if errors:
            raise FashiontlError("\n".join(errors))
        return facts

    def _find(self) -> None:
        """Find the cases of both trees and those of one alone."""
        self.progress("looking for the cells in both trees")
        cases = {case.id: case for case in self.order.cases}
        if self.order.matrix is not None:
            # As they were asked for; what only the base means by the same options comes last.
            for case in self.arms["base"].expand(self.order.matrix):
                cases.setdefault(case.id, case)
        lacks = {arm: self.arms[arm].lacks(list(cases.values())) for arm in ("base", "head")}
        nowhere = [f"{cell}: {lacks['head'][cell]}" for cell in cases if all(cell in found for found in lacks.values())]
        if nowhere:
            raise FashiontlError("expected cells that one of the trees has, got " + "\n".join(nowhere))
        self._new = [cell for cell in cases if cell in lacks["base"]]
        self._removed = [cell for cell in cases if cell in lacks["head"]]
        self._cells = [cell for cell in cases if cell not in lacks["head"]]
        self._failures += [Failure(cell, "head", "missing", lacks["head"][cell]) for cell in self._removed]
        self._cases = {cell: case for cell, case in cases.items() if not any(cell in found for found in lacks.values())}

    def _count(self) -> None:
        for case in self._sound() if not self.order.timed else ():
            if self._is_over("counting"):
                return
            is_over = partial(self._is_over, "counting")
            counts, failures = count(self.arms, case, self.order.settings, self.progress, is_over)
            self._counts += counts
            self._failures += failures
            reported = {found.metric for found in counts}
            if counts and not failures:
                self._unavailable += [Unavailable(case.id, metric) for metric in COUNTED if metric not in reported]

    def _train(self) -> None:
        for case in self._sound() if self.order.accuracy else ():
            if self._is_over("training"):
                return
            answers, failures = train(self.arms, case, self.order.settings, self.progress)
            self._answers += [answers] if answers else []
            self._failures += failures

    def _time(self) -> None:
        """Rounds over all cells, a trial of each that still wants one, so that a drift of the machine hits all alike.

        A suspect is confirmed while others are still screened: its fresh trials do not depend on theirs, and when time
        is short they are worth more.
        """
        while wanted := self._wanted():
            for case, stages in wanted:
                if self._is_over("timing"):
                    return
                self._trial(case, stages)

    def _wanted(self) -> list[tuple[Case, dict[str, Stage]]]:
        """What the rule wants of each cell: the stage of each metric's next trial."""
        found: list[tuple[Case, dict[str, Stage]]] = []
        # Trials of every cell that there is time for, once it is known how long one takes.
        seconds = math.fsum(fmean(self._costs[case.id]) for case in self._sound() if self._costs[case.id])
        left = LOOKS[-1]
        if self.order.budget and seconds:
            left = max(0, int((self.order.budget - self._elapsed()) / seconds))
        for case in self._sound():
            stages: dict[str, Stage] = {}
            for metric in self.order.timed or TIMED:
                limit, trials = limit_of(case.id, metric), self._trials.get((case.id, metric), [])
                assert limit is not None
                screened = sum(trial.stage == "screen" for trial in trials)
                action = self.rule(trials, limit, min(LOOKS[-1], screened + left))
                if action != "stop":
                    stages[metric] = action
                elif self.rule(trials, limit, LOOKS[-1]) != "stop":
                    self._warnings.append(f"{case.id}, {metric}: {self._budget} left no time for the trials it needs")
            if stages:
                found.append((case, stages))
        return found

    def _trial(self, case: Case, stages: Mapping[str, Stage]) -> None:
        """A fresh pair of processes, which time one metric after the other."""
        started, timed = self.clock(), as_timed(case)
        try:
            with self.arms["base"].turns(timed) as base, self.arms["head"].turns(timed) as head:
                for metric, stage in stages.items():
                    trials = self._trials[case.id, metric]
                    self.progress(f"{case.id}: {metric}, trial {len(trials) + 1} ({stage})")
                    processes: dict[Name, Turns] = {"base": base, "head": head}
                    trial, steady, throttled = take_trial(processes, metric, stage, self.draw(), self.kernel)
                    trials.append(trial)
                    self._unsteady[case.id, metric] += not steady
                    self._throttled[case.id, metric] += throttled
        except StoppedError as stopped:
            self._failures.append(Failure(case.id, stopped.arm, stopped.kind, stopped.reason))
        self._costs[case.id].append(self.clock() - started)

    def _sound(self) -> list[Case]:
        """Cells of both trees in which nothing has failed."""
        failed = {failure.cell for failure in self._failures}
        return [case for cell, case in self._cases.items() if cell not in failed]

    def _series(self) -> Iterator[Series]:
        for (cell, metric), trials in self._trials.items():
            batch = self._cases[cell].batch or self.order.settings.throughput_batch
            if trials:
                yield Series(cell, metric, tuple(trials), 1 if metric == "latency" else batch)

    def _slice_warnings(self) -> Iterator[str]:
        for (cell, metric), trials in self._trials.items():
            slices = sum(len(trial.base) + len(trial.head) for trial in trials)
            if unsteady := self._unsteady[cell, metric]:
                yield f"{cell}, {metric}: not steady after the warm-up in {unsteady} of {len(trials)} trials"
            if throttled := self._throttled[cell, metric]:
                yield f"{cell}, {metric}: the machine was throttled in {throttled} of {slices} slices"

    def _is_over(self, what: str) -> bool:
        if not self.order.budget or self._elapsed() < self.order.budget:
            return False
        self._warnings.append(f"{self._budget} was used up while {what}")
        return True

    @property
    def _budget(self) -> str:
        return f"the budget of {self.order.budget:g} s (--budget)"

    def _elapsed(self) -> float:
        return self.clock() - self._started


@contextmanager
def opened_gate(
    base_ref: str,
    order: Order,
    *,
    folder: Path,
    cache: Path,
    extensions: Sequence[str] = (),
    progress: Progress = lambda text: None,
) -> Iterator[Gate]:
    """Check the base out, start both arms, and have them prove what they import; all is gone at the end.

    Nothing else of fashiontl uses the cases' devices meanwhile.

    Args:
        base_ref: a commit of the repository that the folder is in.
        order: what is asked for.
        folder: of the project, in the working tree.
        cache: folder of the pretrained backbones.
        extensions: besides those that the trees name themselves; relative paths are looked up in each tree.
        progress: called with what is being done.

    Raises:
        FashiontlError: as `fashiontl.gate.trees.base_tree`.
        IncomparableError: as `fashiontl.gate.arm.Arm.identify`; it carries the verdict of the whole gate then.
    """
    with ExitStack() as stack:
        head_checkout = working_tree(folder)
        base_checkout = stack.enter_context(base_tree(head_checkout, base_ref))
        head = stack.enter_context(Arm("head", head_checkout, base_checkout, order.settings, cache, extensions))
        base = stack.enter_context(Arm("base", base_checkout, head_checkout, order.settings, cache, extensions))
        progress("starting both arms")
        trees: dict[Name, Tree] = {"head": head.identify(), "base": base.identify()}
        for device in sorted({case.device for case in order.cases}):
            progress(f"waiting for {device}")
            stack.enter_context(alone_on(Device.of(device), cache))
        yield Gate({"base": base, "head": head}, trees, order, progress)
