"""One case becomes one record: every phase in a process of its own, and whatever happens is a row."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.core.files import check_folder, check_temporary
from fashiontl.core.metrics import METRICS, Measurement
from fashiontl.machine.conditions import Observer
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import choose_threads, machine_key, read_environment
from fashiontl.machine.locks import alone_on
from fashiontl.matrix.extensions import facts
from fashiontl.matrix.options import SOURCE_TASKS
from fashiontl.records import SCHEMA, Record
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.estimate import Work
from fashiontl.timing.clock import clock_error, clock_ratio

Progress = Callable[[str], None]

# A quick look at the peak is a small part of even one case.
_MOST_PEAK_SECONDS = 2.0


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


# What phases return besides measurements, warnings and proofs, and goes into the record's provenance: as it is, where
# any seed has it, and from several phases together.
_ALWAYS = (
    "data", "weights", "recipe", "evaluation", "losses", "reused_stages", "image_size", "deterministic", "pretraining",
    "sweep", "profile", "periods", "divergence",
)  # fmt: skip
_WHERE_ANY = ("trained", "validation", "features", "members")
_BY_LOOP = ("timing", "compile", "energy")


@dataclass
class _Collected:
    """What the phases of one case have given so far."""

    measurements: list[Measurement] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)

    def add(self, value: Mapping[str, Any]) -> None:
        """Take what a phase returned: measurements under their metrics' names, and the rest by its own."""
        known = {measurement.metric for measurement in self.measurements}
        for metric in METRICS:
            raw = value.get(metric, [])
            if raw != [] and metric not in known:
                trials = value["trials"] if metric == "accuracy" else 0
                values = tuple(raw) if isinstance(raw, list) else (raw,)
                self.measurements.append(Measurement(metric, values, trials))
        self.warnings += [*value.get("warnings", []), *value.get("energy_warnings", [])]
        self.invalid += value.get("invalid", [])
        self.proofs += value.get("proof", [])
        for name, found in value.items():
            if name in _ALWAYS or (name in _WHERE_ANY and any(found)):
                self.provenance[name] = found
            elif name in _BY_LOOP:
                self.provenance.setdefault(name, {}).update(found)
        profile = value.get("profile", {})
        self.warnings += profile.get("warnings", [])
        if profile.get("trace"):
            self.artifacts["trace"] = profile["trace"]

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


class Measurer:
    """Measures cases one after the other.

    Args:
        worker: runs the phases.
        settings: how.
        results: folder below which traces are written.
        run: the run's name.
        cache: folder of the pretrained backbones.
        extensions: modules and files with entries of the user's own.
        placed: the device on which cases of a device are measured, where it is another: with `{"cuda": "cuda:2"}`
            cases of `cuda` keep their names, and all that is done, locked and observed is on `cuda:2`.
    """

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        results: Path,
        run: str,
        cache: Path | None = None,
        extensions: Sequence[str] = (),
        *,
        placed: Mapping[str, str] | None = None,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._results = results
        self._run = run
        self._cache = cache or cache_folder()
        self._extensions = list(extensions)
        self._placed = dict(placed or {})
        self._asked: dict[str, Outcome] = {}
        self._clock_error: str | None = None

    def device(self, name: str) -> Outcome:
        """Whether a device can be used (`skipped` with the reason when not) and its facts; asked once."""
        return _skipped_where_absent(self._once("device", {"device": name}))

    def count(self, case: Case) -> Work | None:
        """What a case computes, before it is measured; asked once an architecture. None where it cannot be counted."""
        alike = Case(case.architecture, "full", task=case.task, weights="none", image_size=case.image_size)
        outcome = self._once(
            "count",
            {"case": asdict(alike), "settings": asdict(self._settings), "extensions": self._extensions},
        )
        return Work(**outcome.value) if outcome.status == "ok" else None

    def measure(self, case: Case, progress: Progress = lambda text: None) -> Record:
        """Run every phase of a case.

        A phase that fails ends the case with its status; what earlier phases measured stays in the record. After a
        training that diverged the others follow all the same, and the record has their numbers, but no accuracy.

        Args:
            case: what to measure.
            progress: called with what is being done.
        """
        started = datetime.now(UTC)
        begun = time.perf_counter()
        here = self._here(case)
        device = self.device(here.device)
        limit = choose_threads(self._settings.threads).limit
        environment = read_environment(device.value.get("facts", {}), threads=self._worker.threads, limit=limit)
        collected = _Collected()
        if here.device != case.device:
            collected.provenance["placed"] = here.device
        outcome = device
        if outcome.status == "ok" and case.variant:
            outcome = _skipped_where_absent(self._once("variant", {"case": asdict(here)}))
            collected.warnings += outcome.value.get("doubts", [])
        if outcome.status == "ok":
            progress(f"waiting for {here.device}")
            with alone_on(Device.of(here.device), self._cache):
                self._machine(here, collected, progress)
                begun = time.perf_counter()
                observer = Observer(Device.of(here.device))
                observer.begin()
                outcome = self._phases(case, collected, progress)
                collected.observed(observer)
        status, reason = outcome.status, outcome.reason
        violations = [violation for proof in collected.proofs for violation in proof["violations"]]
        if violations:
            status, reason = "invalid", "the policy was not kept: " + "; ".join(violations[:3])
        elif status == "ok" and collected.invalid:
            status, reason = "invalid", "; ".join(collected.invalid)
        if status != "skipped":
            collected.add({"wall_time": time.perf_counter() - begun})
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

    def _here(self, case: Case) -> Case:
        """A case on the device on which it is measured; only what is done sees it, the record holds the case."""
        return replace(case, device=self._placed.get(case.device, case.device))

    def _phases(self, case: Case, collected: _Collected, progress: Progress) -> Outcome:
        job: dict[str, Any] = {
            "case": asdict(self._here(case)),
            "settings": asdict(self._settings),
            "cache": str(self._cache),
        }
        if self._extensions:
            job["extensions"] = self._extensions
            collected.provenance["extensions"] = facts(self._extensions)
        phases = self._case_phases(case)
        if "profile" in phases:
            job["traces"] = str(self._results / "traces" / self._run / case.file_name)
        diverged: Outcome | None = None
        for phase in phases:
            outcome = self._worker.run(phase, job, self._settings.timeout, progress)
            if outcome.status in {"ok", "diverged"}:
                collected.add(outcome.value)
            if outcome.status == "diverged" and phase == "train":
                # What a step or an answer costs does not depend on the weights.
                diverged = outcome
            elif outcome.status != "ok" and diverged:
                return replace(diverged, reason=f"{diverged.reason}; then {outcome.status}: {outcome.reason}")
            elif outcome.status != "ok":
                return outcome
            if phase == "pretrain":
                job["checkpoints"] = outcome.value["checkpoints"]
        return diverged or Outcome("ok", "", {})

    def _case_phases(self, case: Case) -> list[str]:
        settings = self._settings
        wanted = {
            "pretrain": case.weights in SOURCE_TASKS,
            "train": settings.accuracy,
            "inference": True,
            "step": True,
            "sweep": settings.sweep > 0,
            "profile": settings.profile,
        }
        return [phase for phase, is_wanted in wanted.items() if is_wanted]

    def _machine(self, case: Case, collected: _Collected, progress: Progress) -> None:
        """What is known of the machine itself: measured once a session, by the first case that asks."""
        device, precision = case.device, case.precision
        if self._clock_error is None:
            self._clock_error = clock_error(clock_ratio()) or ""
        collected.warnings += [f"this machine cannot measure: {self._clock_error}"] if self._clock_error else []
        seconds = min(_MOST_PEAK_SECONDS, 2 * self._settings.seconds)
        progress("measuring the peak")
        outcome = self._once("peak", {"device": device, "precision": precision, "seconds": seconds})
        if outcome.status == "ok" and outcome.value:
            collected.provenance["peak"] = outcome.value
            collected.add({"peak_flops": max(outcome.value.values())})
        else:
            collected.warnings.append(f"the peak was not measured: {outcome.reason or 'too little memory'}")

    def _once(self, phase: str, job: dict[str, Any]) -> Outcome:
        """The answer to a question about the machine, asked once a session."""
        key = json.dumps([phase, job], sort_keys=True)
        if key not in self._asked:
            self._asked[key] = self._worker.run(phase, job, timeout=120)
        return self._asked[key]


def _skipped_where_absent(outcome: Outcome) -> Outcome:
    """The outcome of a question whether something is here: `skipped`, with the reason, when it is not."""
    reason = outcome.value.get("absence")
    return Outcome("skipped", reason, outcome.value) if reason else outcome


def command() -> str:
    """What was typed, whether a script was started or a module with `python -m`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def _merged(proofs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The proofs of all seeds as one: it holds when each does."""
    if not proofs:
        return None
    violations = [violation for proof in proofs for violation in proof["violations"]]
    unmoved = sorted({name for proof in proofs for name in proof["unmoved"]})
    return {
        **proofs[-1],
        "holds": all(proof["holds"] for proof in proofs),
        "unmoved": unmoved,
        "violations": violations,
    }
