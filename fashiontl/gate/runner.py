"""Running a gate: both trees head to head, cell by cell and epoch by epoch. No torch, but in its arms."""

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.gate.arm import Arm, StoppedError
from fashiontl.gate.asked import COUNTED, TIMED, stated
from fashiontl.gate.control import control
from fashiontl.gate.epoch import Process, take_epoch
from fashiontl.gate.explain import explain
from fashiontl.gate.limits import Limit, limit_of
from fashiontl.gate.raw import SCHEMA, Answers, Asked, Counts, Epoch, Failure, Raw, Series, Stage, Tree, Untold
from fashiontl.gate.raw import Arm as Name
from fashiontl.gate.sequential import LOOKS, next_action
from fashiontl.gate.trees import base_tree, working_tree
from fashiontl.gate.untimed import Runs, answer, count
from fashiontl.gate.verdict import Explained
from fashiontl.machine.conditions import Observer
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import choose_threads, machine_key, read_environment
from fashiontl.machine.locks import alone_on
from fashiontl.matrix.options import as_timed
from fashiontl.runner.client import Outcome, Progress

Rule = Callable[[Sequence[Epoch], Limit, int], Literal["screen", "confirm", "stop"]]


class Runner(Runs, Protocol):
    """What a gate needs of an arm; `fashiontl.gate.arm.Arm` has it."""

    @property
    def threads(self) -> int:
        """CPU threads of each process."""

    def lacks(self, cases: Sequence[Case]) -> dict[str, str]:
        """Why cases are not in this tree, by their ids."""

    def expand(self, matrix: Mapping[str, Any]) -> list[Case]:
        """The cases that options mean in this tree."""

    def ask(self, phase: str, job: Mapping[str, Any]) -> Outcome:
        """Run a phase that is about the machine."""

    def turns(self, case: Case) -> AbstractContextManager[Process]:
        """Begin a fresh process of a case that waits for its turns."""


@dataclass(frozen=True)
class Order:
    """What a gate was asked for.

    Attributes:
        cases: to be compared.
        settings: how they are run; an arm warms up in an epoch for twice `seconds` at most.
        accuracy: whether they are trained and tested too.
        budget: the most seconds that it may take; 0 is no limit. What has begun is finished.
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

    def __post_init__(self) -> None:
        if not 0 <= self.budget < math.inf:
            raise FashiontlError(f"expected a budget of 0, which is no limit, or more seconds, got {self.budget:g}")


class Gate:
    """A gate whose two arms have proved what they are; `opened_gate` makes it.

    Args:
        arms: both.
        trees: what they run.
        order: what was asked for.
        progress: called with what is being done.
        rule: says what to take next of a cell and metric.
        kernel: seconds of one run of the control kernel.
        draw: the arm that begins an epoch.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        arms: Mapping[Name, Runner],
        trees: Mapping[Name, Tree],
        order: Order,
        *,
        progress: Progress = lambda text: None,
        rule: Rule = next_action,
        kernel: Callable[[], float] = control,
        draw: Callable[[], Name] = lambda: random.SystemRandom().choice(("base", "head")),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arms = arms
        self._trees = trees
        self._order = order
        self._progress = progress
        self._rule = rule
        self._kernel = kernel
        self._draw = draw
        self._clock = clock
        self._begun = clock()
        self._cells: list[str] = []
        self._cases: dict[str, Case] = {}
        self._new: list[str] = []
        self._removed: list[str] = []
        self._epochs: dict[tuple[str, str], list[Epoch]] = defaultdict(list)
        self._costs: dict[str, list[float]] = defaultdict(list)
        self._counts: list[Counts] = []
        self._answers: list[Answers] = []
        self._failures: list[Failure] = []
        self._doubts: list[str] = []
        self._untold: list[Untold] = []
        self._interrupted = False
        self._unsteady: Counter[tuple[str, str]] = Counter()
        self._throttled: Counter[tuple[str, str]] = Counter()

    def measure(self) -> Raw:
        """Compare the arms; what was measured until something failed, time was up or a key was pressed is kept.

        Raises:
            FashiontlError: a case is in neither tree, or its device is not here.
        """
        started = datetime.now(UTC)
        facts = self._devices()
        observers = [Observer(Device.of(device)) for device in facts]
        for observer in observers:
            observer.begin()
        try:
            self._find()
            for stage in (self._count, self._answer, self._time):
                stage()
        except KeyboardInterrupt:
            self._interrupted = True
            self._doubts.append(f"interrupted after {self._elapsed():.0f} s: only what was measured until then is here")
        for observer in observers:
            self._doubts += observer.end().warnings
        (accelerator, *_) = [found for found in facts.values() if found] or [{}]
        limit = choose_threads(self._order.settings.threads).limit
        environment = read_environment(accelerator, threads=self._arms["head"].threads, limit=limit)
        return Raw(
            schema=SCHEMA,
            started=started.isoformat(timespec="seconds"),
            seconds=self._elapsed(),
            command=self._order.command,
            machine=machine_key(environment),
            environment=asdict(environment),
            base=self._trees["base"],
            head=self._trees["head"],
            cells=tuple(self._cells),
            new=tuple(self._new),
            removed=tuple(self._removed),
            budget=self._order.budget,
            series=tuple(self._series()),
            counts=tuple(self._counts),
            answers=tuple(self._answers),
            failures=tuple(self._failures),
            doubts=tuple(dict.fromkeys([*self._doubts, *self._slice_doubts()])),
            asked=self._asked(),
            untold=tuple(self._untold),
            interrupted=self._interrupted,
        )

    def _asked(self) -> Asked:
        order = self._order
        # An interrupt may come before the cells are found: those of the order are then all that is known.
        cells = list(dict.fromkeys([*self._cells, *self._removed])) or [case.id for case in order.cases]
        commits = self._trees["base"].commit, self._trees["head"].commit
        return stated(cells, order.settings, commits, timed=order.timed, accuracy=order.accuracy)

    def explain(self, regressed: Sequence[tuple[str, str]]) -> tuple[tuple[Explained, ...], tuple[str, ...]]:
        """Profile both arms in processes of their own, and name what grew.

        Args:
            regressed: cells and timed metrics.

        Returns:
            What grew, and sentences on what could not be explained.
        """
        found: list[Explained] = []
        doubts: list[str] = []
        for cell, case in self._cases.items():
            metrics = [metric for each, metric in regressed if each == cell and metric in TIMED]
            if metrics:
                explained, more = explain(self._arms, case, metrics, self._order.settings, self._progress)
                found += explained
                doubts += more
        return tuple(found), tuple(doubts)

    def _devices(self) -> dict[str, dict[str, str | None]]:
        """Facts of each device; every one must be here, and run its cases' variants."""
        facts, faults = {}, []
        for device in sorted({case.device for case in self._order.cases}):
            outcome = self._arms["head"].ask("device", {"device": device})
            facts[device] = outcome.value.get("facts", {})
            if reason := outcome.reason or outcome.value.get("absence"):
                faults.append(f"expected a device that can be used, got {device}: {reason}; name others with --device")
        for case in self._order.cases if not faults else ():
            if case.variant:
                outcome = self._arms["head"].ask("variant", {"case": asdict(case)})
                if reason := outcome.reason or outcome.value.get("absence"):
                    faults.append(f"expected a variant that can be run, got {case.id}: {reason}")
        if faults:
            raise FashiontlError("\n".join(faults))
        return facts

    def _find(self) -> None:
        """Tell cases of both trees from those of one."""
        self._progress("looking for the cells in both trees")
        cases = {case.id: case for case in self._order.cases}
        if self._order.matrix is not None:
            cases = {**{case.id: case for case in self._arms["base"].expand(self._order.matrix)}, **cases}
            # As they were asked for; what only the base means by the same options comes last.
            asked = [case.id for case in self._order.cases]
            cases = {cell: cases[cell] for cell in dict.fromkeys([*asked, *cases])}
        lacks = {arm: self._arms[arm].lacks(list(cases.values())) for arm in ("base", "head")}
        nowhere = [f"{cell}: {lacks['head'][cell]}" for cell in cases if all(cell in found for found in lacks.values())]
        if nowhere:
            raise FashiontlError("expected cells that one of the trees has, got " + "\n".join(nowhere))
        self._new = [cell for cell in cases if cell in lacks["base"]]
        self._removed = [cell for cell in cases if cell in lacks["head"]]
        self._cells = [cell for cell in cases if cell not in lacks["head"]]
        self._failures += [Failure(cell, "head", "missing", lacks["head"][cell]) for cell in self._removed]
        self._cases = {cell: case for cell, case in cases.items() if not any(cell in found for found in lacks.values())}

    def _count(self) -> None:
        for case in self._sound() if not self._order.timed else ():
            if self._is_over("counting"):
                return
            counts, failures = count(
                self._arms, case, self._order.settings, self._progress, lambda: self._is_over("counting")
            )
            self._counts += counts
            self._failures += failures
            told = {found.metric for found in counts}
            if counts and not failures:
                self._untold += [Untold(case.id, metric) for metric in COUNTED if metric not in told]

    def _answer(self) -> None:
        for case in self._sound() if self._order.accuracy else ():
            if self._is_over("training"):
                return
            answers, failures = answer(self._arms, case, self._order.settings, self._progress)
            self._answers += [answers] if answers else []
            self._failures += failures

    def _time(self) -> None:
        """Rounds over all cells, an epoch of each that still wants one, so that a drift of the machine hits all alike.

        A suspect is confirmed while others are still screened: its fresh epochs do not depend on theirs, and when time
        is short they are worth more.
        """
        while wanted := self._wanted():
            for case, stages in wanted:
                if self._is_over("timing"):
                    return
                self._epoch(case, stages)

    def _wanted(self) -> list[tuple[Case, dict[str, Stage]]]:
        """What the rule wants of each cell: the stage of each metric's next epoch."""
        found: list[tuple[Case, dict[str, Stage]]] = []
        rounds = self._rounds_left()
        for case in self._sound():
            stages: dict[str, Stage] = {}
            for metric in self._order.timed or TIMED:
                limit, epochs = limit_of(case.id, metric), self._epochs.get((case.id, metric), [])
                assert limit is not None
                screened = sum(epoch.stage == "screen" for epoch in epochs)
                budget = LOOKS[-1] if rounds is None else min(LOOKS[-1], screened + rounds)
                action = self._rule(epochs, limit, budget)
                if action != "stop":
                    stages[metric] = action
                elif self._rule(epochs, limit, LOOKS[-1]) != "stop":
                    self._doubts.append(f"{case.id}, {metric}: {self._budget} left no time for the epochs it needs")
            if stages:
                found.append((case, stages))
        return found

    def _rounds_left(self) -> int | None:
        """Epochs of every cell that there is time for; None without a limit, or before one was taken."""
        seconds = math.fsum(fmean(self._costs[case.id]) for case in self._sound() if self._costs[case.id])
        if not self._order.budget or not seconds:
            return None
        return max(0, int((self._order.budget - self._elapsed()) / seconds))

    def _epoch(self, case: Case, stages: Mapping[str, Stage]) -> None:
        """A fresh pair of processes, which time one metric after the other."""
        begun = self._clock()
        timed = as_timed(case)
        try:
            with self._arms["base"].turns(timed) as base, self._arms["head"].turns(timed) as head:
                for metric, stage in stages.items():
                    epochs = self._epochs[case.id, metric]
                    self._progress(f"{case.id}: {metric}, epoch {len(epochs) + 1} ({stage})")
                    taken = take_epoch({"base": base, "head": head}, metric, stage, self._draw(), self._kernel)
                    epochs.append(taken.epoch)
                    self._unsteady[case.id, metric] += not taken.steady
                    self._throttled[case.id, metric] += taken.throttled
        except StoppedError as stopped:
            self._failures.append(Failure(case.id, stopped.arm, stopped.kind, stopped.reason))
        self._costs[case.id].append(self._clock() - begun)

    def _sound(self) -> list[Case]:
        """Cells of both trees in which nothing has failed."""
        failed = {failure.cell for failure in self._failures}
        return [case for cell, case in self._cases.items() if cell not in failed]

    def _series(self) -> Iterator[Series]:
        for (cell, metric), epochs in self._epochs.items():
            batch = self._cases[cell].batch or self._order.settings.throughput_batch
            if epochs:
                yield Series(cell, metric, tuple(epochs), 1 if metric == "latency" else batch)

    def _slice_doubts(self) -> Iterator[str]:
        for (cell, metric), epochs in self._epochs.items():
            slices = sum(len(epoch.base) + len(epoch.head) for epoch in epochs)
            if unsteady := self._unsteady[cell, metric]:
                yield f"{cell}, {metric}: not steady after the warm-up in {unsteady} of {len(epochs)} epochs"
            if throttled := self._throttled[cell, metric]:
                yield f"{cell}, {metric}: the machine was throttled in {throttled} of {slices} slices"

    def _is_over(self, what: str) -> bool:
        if not self._order.budget or self._elapsed() < self._order.budget:
            return False
        self._doubts.append(f"{self._budget} was used up while {what}")
        return True

    @property
    def _budget(self) -> str:
        return f"the budget of {self._order.budget:g} s (--budget)"

    def _elapsed(self) -> float:
        return self._clock() - self._begun


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
        IncomparableError: as `fashiontl.gate.arm.Arm.identify`; it carries what the whole gate says then.
    """
    with ExitStack() as stack:
        head_checkout = working_tree(folder)
        base_checkout = stack.enter_context(base_tree(head_checkout, base_ref))
        head = stack.enter_context(
            Arm("head", head_checkout, base_checkout, order.settings, cache, extensions)
        )  # fmt: skip
        base = stack.enter_context(
            Arm("base", base_checkout, head_checkout, order.settings, cache, extensions)
        )  # fmt: skip
        progress("starting both arms")
        trees: dict[Name, Tree] = {"head": head.identify(), "base": base.identify()}
        for device in sorted({case.device for case in order.cases}):
            progress(f"waiting for {device}")
            stack.enter_context(alone_on(Device.of(device), cache))
        yield Gate({"base": base, "head": head}, trees, order, progress=progress)
