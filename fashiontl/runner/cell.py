"""One case becomes one record: every phase in a process of its own, and whatever happens is a row."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs
from msgspec import structs

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import to_file_name
from fashiontl.core.files import check_folder, check_temporary
from fashiontl.machine.conditions import Observer
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import choose_threads, machine_key, read_environment
from fashiontl.machine.locks import alone_on
from fashiontl.matrix.extensions import EXTRA_PHASES
from fashiontl.matrix.extensions import facts as facts_of
from fashiontl.matrix.options import SOURCE_TASKS
from fashiontl.records import SCHEMA, Record, journal_folder
from fashiontl.records.facts import Proof
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.estimate import Work
from fashiontl.runner.messages import (
    COUNT,
    DEVICE,
    INFERENCE,
    PEAK,
    PRETRAIN,
    PROFILE,
    SLICES,
    STEP,
    SWEEP,
    TRAIN,
    VARIANT,
    CaseJob,
    DeviceFacts,
    DeviceJob,
    ExtraJob,
    J,
    PeakJob,
    Phase,
    PhaseResult,
    Pretraining,
    Progress,
    R,
    VariantSupport,
)
from fashiontl.runner.rounds import Journal, Rounds
from fashiontl.runner.subjects import Subject, subjects_of
from fashiontl.runner.variables import MEMORY, recorded, removed
from fashiontl.timing.clock import clock_error, clock_ratio

_Available = TypeVar("_Available", DeviceFacts, VariantSupport)

# A quick look at the peak is a small part of even one case.
_MOST_PEAK_SECONDS = 2.0
# What reads the memory of a case.
_MEMORY_PHASES = (INFERENCE, STEP)
# Cases that are timed together: the first record of a group comes when all of it has been timed.
_MOST_CELLS = 24


def cache_folder() -> Path:
    """Where pretrained backbones are kept; `FASHIONTL_CACHE` moves it.

    Raises:
        FashiontlError: there is no home folder to keep them in.
    """
    named = os.environ.get("FASHIONTL_CACHE")
    folder = Path(named) if named else platformdirs.user_cache_path("fashiontl")
    # Of a user without a home, it would be a folder called `~` here.
    if not named and not folder.is_absolute():
        raise FashiontlError("expected a home folder for the cache, got none; name a folder with FASHIONTL_CACHE")
    return folder


def check_cache() -> None:
    """Find out before anything is measured that backbones can be kept, and that there is room for temporary files.

    Raises:
        FashiontlError: as `check_folder` and `check_temporary`.
    """
    check_temporary()
    check_folder(cache_folder(), "pretrained backbones", "FASHIONTL_CACHE")


class _Collected(PhaseResult):
    """What the phases of one case have given so far."""

    def add(self, result: PhaseResult) -> None:
        """Take what a phase returned; of a metric that two phases measure, such as the empty worker, the first."""
        known = {measurement.metric for measurement in self.measurements}
        self.measurements += [each for each in result.measurements if each.metric not in known]
        self.warnings += result.warnings
        self.invalid += result.invalid
        self.proofs += result.proofs
        self.provenance |= result.provenance
        for name, loops in result.loops.items():
            self.provenance.setdefault(name, {}).update(loops)
        self.artifacts |= result.artifacts

    def observed(self, observer: Observer) -> None:
        """Take what the machine was like meanwhile; when that cannot be told, what was measured is kept."""
        try:
            conditions = observer.end()
        except Exception as error:
            self.warnings.append(f"the machine's conditions could not be read: {type(error).__name__}: {error}")
        else:
            self.warnings += conditions.warnings
            self.provenance["conditions"] = msgspec.to_builtins(
                {"before": conditions.before, "after": conditions.after}
            )


@dataclass(frozen=True)
class _Group:
    """Cases that were timed in turns."""

    rounds: Rounds
    subjects: Sequence[Subject]

    @property
    def cells(self) -> set[str]:
        """Their ids."""
        return {cell for subject in self.subjects for cell in subject.cells}

    def seconds(self, cell: str) -> float:
        """A cell's share of the time that it took."""
        return self.rounds.seconds(cell, self.subjects)


class Measurer:
    """Measures cases one after the other.

    Cases that are announced together are timed together, in turns, when the first of them is measured; each then has
    its share of what was measured, and a record of its own.

    Args:
        settings: how.
        results: folder below which traces are written.
        run: the run's name.
        machine: under which its file is.
        cache: folder of the pretrained backbones.
        extensions: modules and files with entries of the user's own.
        server: makes a server of workers, of threads and `allocator`; for tests.
    """

    def __init__(
        self,
        settings: Settings,
        results: Path,
        run: str,
        machine: str,
        cache: Path | None = None,
        *,
        extensions: Sequence[str] = (),
        server: Callable[..., Worker] = Worker,
    ) -> None:
        self._server = server
        self._worker = server(settings.threads, allocator=settings.allocator)
        # The allocator's pinned thresholds make speeds repeat, and take several times the memory.
        self._memory_worker = server(settings.threads, allocator=MEMORY)
        self._settings = settings
        self._results = results
        self._run = run
        self._key = machine
        self._cache = cache or cache_folder()
        self._extensions = tuple(extensions)
        self._asked: dict[str, Outcome[Any]] = {}
        self._clock_error: str | None = None
        self._expected: list[Case] = []
        self._group: _Group | None = None
        self._rounds: dict[str, Rounds] = {}
        self._journals: dict[str, Journal] = {}

    def close(self) -> None:
        """End the workers. Slices are no longer needed once all cells that were announced have their records."""
        self._worker.close()
        self._memory_worker.close()
        if self._group is not None and not self._expected:
            for journal in self._journals.values():
                journal.forget()

    def expect(self, cases: Sequence[Case]) -> None:
        """Announce cases in the order in which they will be measured."""
        self._expected = list(cases)

    def device(self, name: str) -> Outcome[DeviceFacts]:
        """Whether a device can be used (`skipped` with the reason when not) and its facts; asked once."""
        return _skipped_where_unavailable(self._once(DEVICE, DeviceJob(name, self._extensions)))

    def count(self, case: Case) -> Work | None:
        """What a case computes, before it is measured; asked once an architecture. None where it cannot be counted."""
        alike = Case(case.architecture, "full", task=case.task, weights="none", image_size=case.image_size)
        return self._once(COUNT, CaseJob(alike, self._settings, extensions=self._extensions)).result

    def measure(self, case: Case, progress: Progress = lambda text: None) -> Record:
        """Run every phase of a case.

        A phase that fails ends the case with its status; what earlier phases measured stays in the record. After a
        training that diverged the others follow all the same, and the record has their numbers, but no accuracy.
        """
        started = datetime.now(UTC)
        seconds: dict[str, float] = {}
        device = self.device(case.device)
        limit = choose_threads(self._settings.threads).limit
        facts = device.result.facts if device.result else {}
        given = self._worker.variables
        environment = read_environment(
            facts, threads=self._worker.threads, limit=limit, variables=recorded(given), removed=removed(given)
        )
        collected = _Collected()
        outcome: Outcome[Any] = device
        if outcome.status == "ok" and case.variant:
            outcome = self._variant(case, collected)
        if outcome.status == "ok":
            progress(f"waiting for {case.device}")
            with alone_on(Device.of(case.device), self._cache):
                self._machine(case, collected, progress)
                observer = Observer(Device.of(case.device))
                observer.begin()
                outcome = self._phases(case, collected, seconds, progress)
                collected.observed(observer)
        status, reason = outcome.status, outcome.reason
        violations = [violation for proof in collected.proofs for violation in proof.violations]
        if violations:
            status, reason = "invalid", "the policy was not kept: " + "; ".join(violations[:3])
        elif status == "ok" and collected.invalid:
            status, reason = "invalid", "; ".join(collected.invalid)
        if seconds and status != "skipped":
            collected.measure("wall_time", sum(seconds.values()))
            collected.provenance["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        if case in self._expected:
            self._expected.remove(case)
        return Record(
            schema=SCHEMA,
            id=case.id,
            run=self._run,
            command=command(),
            started=started.isoformat(timespec="seconds"),
            case=case,
            settings=self._settings,
            environment=environment,
            machine=machine_key(environment),
            status=status,
            reason=reason,
            warnings=tuple(dict.fromkeys(collected.warnings)),
            measurements=tuple(collected.measurements),
            proof=_merged(collected.proofs),
            provenance=collected.provenance,
            artifacts=collected.artifacts,
        )

    def _variant(self, case: Case, collected: _Collected) -> Outcome[VariantSupport]:
        job = CaseJob(replace(case, architecture="", policy=""), PRESETS["quick"], extensions=self._extensions)
        outcome = _skipped_where_unavailable(self._once(VARIANT, job))
        if outcome.result:
            collected.warnings += outcome.result.warnings
        return outcome

    def _phases(self, case: Case, collected: _Collected, seconds: dict[str, float], progress: Progress) -> Outcome[Any]:
        job = CaseJob(case, self._settings, str(self._cache), self._extensions)
        if self._extensions:
            collected.provenance["extensions"] = facts_of(self._extensions)
        diverged: Outcome[Any] | None = None
        for phase in [*self._case_phases(case), *_extra_phases()]:
            if phase is PROFILE:
                traces = str(self._results / "traces" / self._run / case.file_name)
                job = structs.replace(job, traces=traces)
            begun = time.perf_counter()
            if phase is SLICES:
                outcome = self._timed(case, collected, progress)
                seconds[phase.name] = self._group.seconds(case.id) if self._group else 0.0
            else:
                outcome = self._run_phase(phase, job, progress)
                seconds[phase.name] = time.perf_counter() - begun
            if outcome.status in {"ok", "diverged"} and outcome.result is not None:
                collected.add(outcome.result)
            if outcome.status == "diverged" and phase is TRAIN:
                # What a step or an answer costs does not depend on the weights.
                diverged = outcome
            elif outcome.status != "ok" and diverged:
                return replace(diverged, reason=f"{diverged.reason}; then {outcome.status}: {outcome.reason}")
            elif outcome.status != "ok":
                return outcome
            if isinstance(outcome.result, Pretraining):
                job = structs.replace(job, checkpoints=outcome.result.checkpoints)
        return diverged or Outcome("ok")

    def _run_phase(self, phase: Phase[Any, R], job: CaseJob, progress: Progress) -> Outcome[R]:
        if phase.job is not ExtraJob:
            worker = self._memory_worker if phase in _MEMORY_PHASES else self._worker
            return worker.run(phase, job, self._settings.timeout, progress)
        own = ExtraJob(**structs.asdict(job), function=EXTRA_PHASES[phase.name].function)
        outcome = self._worker.run(phase, own, self._settings.timeout, progress)
        if outcome.status == "ok" or outcome.reason.startswith(phase.name):
            return outcome
        # Of a FashiontlError that the user's function raises there is the message alone.
        return replace(outcome, reason=f"{phase.name}: {outcome.reason}")

    def _timed(self, case: Case, collected: _Collected, progress: Progress) -> Outcome[Any]:
        """What the rounds say of a case, after timing the group that begins with it if that was not done."""
        group = self._group
        if group is None or case.id not in group.cells:
            group = self._group = self._time_group(case, progress)
        images = case.batch or self._settings.throughput_batch
        found = PhaseResult()
        group.rounds.add_to(found, case.id, group.subjects, images)
        collected.add(found)
        return group.rounds.failure(case.id, group.subjects) or Outcome("ok")

    def _time_group(self, first: Case, progress: Progress) -> "_Group":
        """Time a case and those that come after it on its device."""
        coming = [case for case in self._expected if case.device == first.device and case != first]
        cases = [first, *coming[: _MOST_CELLS - 1]]
        progress("counting what the cases compute")
        subjects = subjects_of(cases, self._settings, self.count)
        path = journal_folder(self._results, self._key) / f"{self._run}.{to_file_name(first.device)}.jsonl"
        journal = self._journals.setdefault(first.device, Journal(path, self._settings))
        rounds = self._rounds.get(first.device) or Rounds(
            self._settings,
            CaseJob(first, self._settings, str(self._cache), self._extensions),
            self._servers,
            journal,
            f"{self._run} {first.device}",
        )
        self._rounds[first.device] = rounds
        rounds.measure(subjects, progress)
        return _Group(rounds, subjects)

    def _servers(self, process: int) -> AbstractContextManager[Worker]:
        """The server of the processes of a number: the first is the one that is there."""
        settings = self._settings
        return self._server(settings.threads, allocator=settings.allocator) if process else nullcontext(self._worker)

    def _case_phases(self, case: Case) -> list[Phase[Any, Any]]:
        settings = self._settings
        wanted: dict[Phase[Any, Any], bool] = {
            PRETRAIN: case.weights in SOURCE_TASKS,
            TRAIN: settings.accuracy,
            INFERENCE: True,
            STEP: True,
            SLICES: True,
            SWEEP: settings.sweep > 0,
            PROFILE: settings.profile,
        }
        return [phase for phase, is_wanted in wanted.items() if is_wanted]

    def _machine(self, case: Case, collected: _Collected, progress: Progress) -> None:
        """What is known of the machine itself: measured once a session, by the first case that asks."""
        device, precision = case.device, case.precision
        if self._clock_error is None:
            self._clock_error = clock_error(clock_ratio()) or ""
        if self._clock_error:
            collected.warnings.append(f"this machine cannot measure: {self._clock_error}")
        seconds = min(_MOST_PEAK_SECONDS, 2 * self._settings.seconds)
        progress("measuring the peak")
        peak = self._once(PEAK, PeakJob(device, self._extensions, precision=precision, seconds=seconds))
        if peak.result:
            collected.provenance["peak"] = peak.result
            collected.measure("peak_flops", max(peak.result.values()))
        else:
            collected.warnings.append(f"the peak was not measured: {peak.reason or 'too little memory'}")

    def _once(self, phase: Phase[J, R], job: J) -> Outcome[R]:
        """The answer to a question about the machine, asked once a session."""
        key = f"{phase.name} {msgspec.json.encode(job).decode()}"
        if key not in self._asked:
            self._asked[key] = self._worker.run(phase, job, timeout=120)
        return self._asked[key]


def _extra_phases() -> list[Phase[Any, Any]]:
    return [Phase(name, ExtraJob, PhaseResult, "extra") for name in EXTRA_PHASES]


def _skipped_where_unavailable(outcome: Outcome[_Available]) -> Outcome[_Available]:
    """The outcome of a question whether something is here: `skipped`, with the reason, when it is not."""
    reason = outcome.result.unavailable if outcome.result else ""
    return Outcome("skipped", reason, outcome.result) if reason else outcome


def command() -> str:
    """What was typed, whether a script was started or a module with `python -m`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def _merged(proofs: list[Proof]) -> Proof | None:
    """The proofs of all seeds as one: it holds when each does."""
    if not proofs:
        return None
    return structs.replace(
        proofs[-1],
        holds=all(proof.holds for proof in proofs),
        unmoved=tuple(sorted({name for proof in proofs for name in proof.unmoved})),
        violations=tuple(violation for proof in proofs for violation in proof.violations),
    )
