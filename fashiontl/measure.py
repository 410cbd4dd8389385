"""One case becomes one record: every phase in a process of its own, and whatever happens is a row."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from fashiontl.case import Case, Settings
from fashiontl.environment import machine_key, read_environment
from fashiontl.extensions import facts
from fashiontl.metrics import Measurement
from fashiontl.record import SCHEMA, Record, check_folder
from fashiontl.worker import Outcome, Worker

Progress = Callable[[str], None]


def cache_folder() -> Path:
    """Where pretrained backbones are kept; `FASHIONTL_CACHE` moves it."""
    named = os.environ.get("FASHIONTL_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("fashiontl")


def check_cache() -> None:
    """Find out before anything is measured that backbones can be kept.

    Raises:
        FashiontlError: as `check_folder`.
    """
    check_folder(cache_folder(), "pretrained backbones", "FASHIONTL_CACHE")


@dataclass
class _Collected:
    """What the phases of one case have given so far."""

    measurements: list[Measurement] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)

    def add(self, metric: str, *values: float, trials: int = 0) -> None:
        self.measurements.append(Measurement(metric, tuple(values), trials))


class Measurer:
    """Measures cases one after the other.

    Args:
        worker: runs the phases.
        settings: how.
        results: folder below which traces are written.
        run: the run's name.
        cache: folder of the pretrained backbones.
        extensions: modules and files with entries of the user's own.
    """

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        results: Path,
        run: str,
        cache: Path | None = None,
        extensions: Sequence[str] = (),
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._results = results
        self._run = run
        self._cache = cache or cache_folder()
        self._extensions = list(extensions)
        self._devices: dict[str, Outcome] = {}

    def device(self, name: str) -> Outcome:
        """Whether a device can be used (`skipped` with the reason when not) and its facts; asked once."""
        if name not in self._devices:
            outcome = self._worker.run("device", {"device": name}, timeout=120)
            reason = outcome.value.get("absence")
            self._devices[name] = Outcome("skipped", reason, outcome.value) if reason else outcome
        return self._devices[name]

    def measure(self, case: Case, progress: Progress = lambda text: None) -> Record:
        """Run every phase of a case.

        A phase that fails ends the case with its status; what earlier phases measured stays in the record.

        Args:
            case: what to measure.
            progress: called with what is being done.
        """
        started = datetime.now(UTC)
        begun = time.perf_counter()
        device = self.device(case.device)
        environment = read_environment(device.value.get("facts", {}), threads=self._worker.threads)
        collected = _Collected()
        outcome = device
        if outcome.status == "ok":
            with self._alone_on(case.device, progress):
                begun = time.perf_counter()
                outcome = self._phases(case, collected, progress)
        status, reason = outcome.status, outcome.reason
        violations = [violation for proof in collected.proofs for violation in proof["violations"]]
        if violations:
            status, reason = "invalid", "the policy was not kept: " + "; ".join(violations[:3])
        if status != "skipped":
            collected.add("wall_time", time.perf_counter() - begun)
        return Record(
            schema=SCHEMA,
            id=case.id,
            run=self._run,
            command=_command(),
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

    def _phases(self, case: Case, collected: _Collected, progress: Progress) -> Outcome:
        job: dict[str, Any] = {"case": asdict(case), "settings": asdict(self._settings), "cache": str(self._cache)}
        if self._extensions:
            job["extensions"] = self._extensions
            collected.provenance["extensions"] = facts(self._extensions)
        traces = self._results / "traces" / self._run / case.file_name
        steps: list[tuple[str, Callable[[_Collected, Mapping[str, Any]], None]]] = [
            ("train", _read_training),
            ("inference", _read_inference),
            ("step", _read_step),
        ]
        if case.weights == "fashion6":
            steps.insert(0, ("pretrain", _read_pretraining))
        if self._settings.profile:
            steps.append(("profile", _read_profile))
            job["traces"] = str(traces)
        outcome = Outcome("ok", "", {})
        for phase, read in steps:
            outcome = self._worker.run(phase, job, self._settings.timeout, progress)
            if outcome.status != "ok":
                break
            if phase == "pretrain":
                job["checkpoints"] = outcome.value["checkpoints"]
            collected.warnings += outcome.value.get("warnings", [])
            read(collected, outcome.value)
        return outcome

    def _alone_on(self, device: str, progress: Progress) -> AbstractContextManager[object]:
        """Wait until no other case runs on the device, on this machine, whoever started it."""
        self._cache.mkdir(parents=True, exist_ok=True)
        progress(f"waiting for {device}")
        return FileLock(self._cache / f"device-{device.replace(':', '-')}.lock")


def _command() -> str:
    """What was typed, whether a script was started or a module with `python -m`."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def _read_pretraining(collected: _Collected, value: Mapping[str, Any]) -> None:
    collected.provenance["pretraining"] = value["pretraining"]


def _read_training(collected: _Collected, value: Mapping[str, Any]) -> None:
    collected.add("accuracy", *value["accuracy"], trials=value["trials"])
    collected.add("training_time", *value["training_time"])
    collected.proofs += value["proof"]
    always = ("data", "weights", "recipe", "evaluation", "losses", "reused_stages", "image_size", "deterministic")
    for name in (*always, "trained", "validation", "members"):
        if name in always or any(value[name]):
            collected.provenance[name] = value[name]


def _read_inference(collected: _Collected, value: Mapping[str, Any]) -> None:
    for name in ("latency", "inference_throughput"):
        collected.add(name, *value[name])
    for name in ("inference_peak_memory", "base_memory", "flops", "parameters", "trainable_parameters"):
        collected.add(name, value[name])
    collected.provenance["warm_up_calls"] = dict(value["warm_up"])


def _read_step(collected: _Collected, value: Mapping[str, Any]) -> None:
    collected.add("train_throughput", *value["train_throughput"])
    collected.add("training_peak_memory", value["training_peak_memory"])
    collected.provenance["warm_up_calls"].update(value["warm_up"])


def _read_profile(collected: _Collected, value: Mapping[str, Any]) -> None:
    collected.provenance["operators"] = value["operators"]
    collected.artifacts["trace"] = value["trace"]


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
