import itertools
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from filelock import FileLock, Timeout
from msgspec import structs

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import Metric
from fashiontl.core.slices import series_of
from fashiontl.machine.conditions import Observer
from fashiontl.machine.disturbance import SliceConditions, Usage
from fashiontl.machine.environment import choose_threads
from fashiontl.matrix.extensions import ExtraPhase, register
from fashiontl.records import SCHEMA, Record, from_json, to_json
from fashiontl.records.facts import Proof
from fashiontl.runner import cell as cell_module
from fashiontl.runner import rounds as rounds_module
from fashiontl.runner.cell import Measurer
from fashiontl.runner.client import Outcome
from fashiontl.runner.estimate import Work
from fashiontl.runner.live import EndedError
from fashiontl.runner.messages import (
    REFERENCE,
    CaseJob,
    DeviceFacts,
    DeviceJob,
    PeakJob,
    Phase,
    PhaseResult,
    Pretraining,
    R,
    SlicesJob,
    Training,
    VariantSupport,
)
from fashiontl.runner.variables import MEMORY

SETTINGS = Settings(preset="smoke", throughput_batch=2, timeout=7.0)
CASE = Case("resnet18", "full")
PROOF = Proof(holds=True, trained_parameters=62, unmoved=("b",))
PRETRAINING = {"sha256": "aa", "recipe": {}, "accuracy": 0.9, "seconds": 3.0, "cached": True}


def measured(result: R, trials: int = 0, /, **values: Any) -> R:
    """The result of a phase with measurements."""
    for metric, found in values.items():
        result.measure(metric, found, trials)
    return result


MACHINE = {"peak_flops": (2e9,)}
TRAINED = {"accuracy": (0.5, 0.75), "training_time": (1.5, 1.25)}
INFERRED = {"load_time": (0.5,), "base_memory": (20,), "flops": (30,)}
STEPPED = {"first_step_time": (0.75,), "training_peak_memory": (60,)}
# Of each of four slices, but two of `end_to_end_throughput`; two images a step.
SECONDS = {
    "latency": (0.25, 0.5), "inference_throughput": (0.125,), "train_throughput": (0.5,), "end_to_end_throughput": (1,),
}  # fmt: skip
PARTS = {"data": (0.0625,), "forward": (0.125,), "backward": (0.25,), "optimizer": (0.5,)}
SLICED = {
    "latency": (0.25, 0.5) * 4,
    "inference_throughput": (16.0,) * 4,
    "train_throughput": (4.0,) * 4,
    "end_to_end_throughput": (2.0,) * 2,
    **{f"step_{part}_time": seconds * 2 for part, seconds in PARTS.items()},
}
WORK = Work(30.0, 2.0, {"stem": 1.0, "stage1": 20.0, "stage2": 30.0, "neck": 1.0, "head": 40.0}, True)


def answers() -> dict[str, Any]:
    """What each phase returns."""
    proofs = [PROOF, structs.replace(PROOF, unmoved=("a",))]
    trained = Training(proofs=proofs, provenance={"losses": [[1.0]]}, warnings=["twice", "of training"])
    inferred = PhaseResult(loops={"compile": {"inference": {"graphs": 6}}}, warnings=["twice"])
    stepped = PhaseResult(loops={"compile": {"training": {"graphs": 7}}}, warnings=["flat battery"])
    swept = PhaseResult(provenance={"sweep": {"inference": {"limit": "memory"}}})
    profile = {"operators": [{"name": "mm"}]}
    return {
        "device": DeviceFacts(facts={"accelerator": "Abacus 3000", "driver": "7"}),
        "variant": VariantSupport(warnings=["emulated"]),
        "peak": {"matmul": 2e9, "convolution": 1e9},
        "count": WORK,
        "pretrain": Pretraining(checkpoints={"resnet18": "source.pt"}, provenance={"pretraining": PRETRAINING}),
        "train": measured(trained, 20, **TRAINED),
        "inference": measured(inferred, **INFERRED),
        "step": measured(stepped, **STEPPED, base_memory=(21,)),
        "sweep": measured(swept, largest_inference_batch=64),
        "profile": PhaseResult(provenance={"profile": profile}, artifacts={"trace": "traces/x"}),
    }


class FakeWorker:
    """Answers as a worker does, at once; `outcomes` replaces the answers of phases."""

    threads = 3

    def __init__(self, **outcomes: Any) -> None:
        self.outcomes = answers() | outcomes
        self.calls: list[tuple[str, Any, float]] = []
        self.variables = {"OMP_WAIT_POLICY": "passive", "LANG": "C"}
        self.closed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def run(self, phase: Phase[Any, R], job: Any, timeout: float, progress: Any = None) -> Outcome[R]:
        if progress is not None:
            progress(f"in {phase.name}")
        self.calls.append((phase.name, job, timeout))
        outcome = self.outcomes[phase.name]
        return outcome if isinstance(outcome, Outcome) else Outcome("ok", "", outcome)

    @property
    def phases(self) -> list[str]:
        """Those of cases: what is asked of the machine, and of what cases compute, is left out."""
        return [phase for phase, _, _ in self.calls if phase not in {"peak", "count"}]


class FakeLive:
    """A process that answers at once, in place of `LiveProcess`; `ends` says how, by case and metric."""

    ends: dict[tuple[str, str], Outcome[Any] | BaseException]
    jobs: list[SlicesJob]
    commands: list[str]

    def __init__(self, worker: Any, job: SlicesJob, folder: Path, timeout: float) -> None:
        assert isinstance(worker, FakeWorker)
        assert folder.is_dir()
        assert timeout == job.settings.timeout
        self._case, self._job = job.case, job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, wait: bool = True) -> None:
        pass

    def warm(self, metric: str) -> dict[str, Any]:
        assert metric in SECONDS
        # The process of the reference mix never warms up.
        if not any(job is self._job for job in self.jobs):
            self.jobs.append(self._job)
        return {"calls": 6, "steady": True, "drift": 0.0, "noise": 0.0}

    def slice(self, metric: str) -> dict[str, Any]:
        if metric == REFERENCE:
            return {"seconds": {"arithmetic": 0.01}}
        self.commands.append(f"{self._case.id} {metric}")
        end = self.ends.get((self._case.id, metric))
        if isinstance(end, BaseException):
            raise end
        if end is not None:
            raise EndedError(end)
        parts = PARTS if metric == "end_to_end_throughput" else {}
        usage = {"seconds": 1.0, "cpu_seconds": 1.0, "waited_seconds": 0.0, "switches": 0, "faults": 0}
        more = {"usage": usage, "throttled": False}
        return {"seconds": 1.0, "values": SECONDS[metric], "device": (), "parts": parts, **more}


class QuietWatch:
    """A machine on which nothing else happens, in place of `Watch`."""

    cores = 2

    def __init__(self, device: object) -> None:
        pass

    def begin(self) -> None:
        pass

    def end(self, usage: Usage) -> SliceConditions:
        return SliceConditions(start=0.0, seconds=usage.seconds, cores=usage.cpu_seconds / usage.seconds)


@pytest.fixture(autouse=True)
def live(monkeypatch: pytest.MonkeyPatch) -> type[FakeLive]:
    """Live processes of the tests' own."""

    for name, empty in (("ends", {}), ("jobs", []), ("commands", [])):
        monkeypatch.setattr(FakeLive, name, empty, raising=False)
    monkeypatch.setattr(rounds_module, "LiveProcess", FakeLive)
    monkeypatch.setattr(rounds_module, "Watch", QuietWatch)
    return FakeLive


def measurer(worker: FakeWorker, folder: Path, settings: Settings = SETTINGS, **more: Any) -> Measurer:
    more.setdefault("server", lambda threads, **allocator: worker)
    return Measurer(settings, folder / "results", "run-1", "machine-1", folder / "cache", **more)


def values(record: Record) -> dict[str, tuple[float, ...]]:
    return {one.metric: one.values for one in record.measurements if one.metric != "wall_time"}


def test_all_phases_in_order_make_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/pytest", "bench/", "--set", "a b=1"])
    worker, said = FakeWorker(), []
    record = measurer(worker, tmp_path).measure(CASE, said.append)
    assert worker.phases == ["device", "pretrain", "train", "inference", "step", "profile"]
    assert said[0] == "waiting for cpu"
    assert said[1] == "measuring the peak"
    assert [text for text in said if text.startswith("in ")] == [f"in {phase}" for phase in worker.phases[1:]]
    assert said.index("in step") < said.index("timing, process 1, round 1 of 4") < said.index("in profile")
    assert (record.status, record.reason, record.schema, record.run) == ("ok", "", SCHEMA, "run-1")
    assert (record.id, record.case, record.settings) == (CASE.id, CASE, SETTINGS)
    assert record.command == "pytest bench/ --set 'a b=1'"
    assert values(record) == {**MACHINE, **TRAINED, **INFERRED, **STEPPED, **SLICED}
    assert [one.trials for one in record.measurements if one.metric == "accuracy"] == [20]
    assert record.provenance["compile"] == {"inference": {"graphs": 6}, "training": {"graphs": 7}}
    timing = record.provenance["timing"]
    assert {metric: loop["warm_up"] for metric, loop in timing.items()} == dict.fromkeys(SECONDS, 6)
    assert record.provenance["peak"] == {"matmul": 2e9, "convolution": 1e9}
    assert set(record.provenance["conditions"]) == {"before", "after"}
    assert record.provenance["pretraining"] == PRETRAINING
    assert record.provenance["profile"]["operators"] == [{"name": "mm"}]
    assert record.artifacts == {"trace": "traces/x"}
    assert (record.environment.threads, record.environment.accelerator) == (3, "Abacus 3000")
    assert record.environment.threads_limit == choose_threads().limit
    assert record.machine.startswith("abacus-3000-")
    # What else this machine does meanwhile is told after them.
    assert record.warnings[:3] == ("twice", "of training", "flat battery")
    assert record.proof == structs.replace(PROOF, unmoved=("a", "b"))
    assert from_json(to_json(record), "here") == record


def test_what_the_phases_are_told(tmp_path: Path) -> None:
    worker = FakeWorker()
    measurer(worker, tmp_path, extensions=["json"]).measure(CASE)
    assert worker.calls[:2] == [
        ("device", DeviceJob("cpu", ("json",)), 120),
        ("peak", PeakJob("cpu", ("json",), precision="fp32", seconds=0.8), 120),
    ]
    job = CaseJob(CASE, SETTINGS, str(tmp_path / "cache"), ("json",))
    later = structs.replace(job, checkpoints={"resnet18": "source.pt"})
    traces = str(tmp_path / "results" / "traces" / "run-1" / "resnet18-full-cpu")
    assert [call[1:] for call in worker.calls[2:] if call[0] != "count"] == [
        (job, 7.0), (later, 7.0), (later, 7.0), (later, 7.0), (structs.replace(later, traces=traces), 7.0)
    ]  # fmt: skip


def test_conditions_that_cannot_be_read_lose_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Observer) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Observer, "end", broken)
    record = measurer(FakeWorker(), tmp_path).measure(CASE)
    assert (record.status, record.values("accuracy")) == ("ok", (0.5, 0.75))
    assert any("conditions could not be read" in warning for warning in record.warnings)
    assert "conditions" not in record.provenance


DIVERGED = Outcome(
    "diverged",
    "seed 1, epoch 1, step 2",
    Training(provenance={"losses": [[2.5]], "divergence": {"epoch": 1, "step": 2}}),
)


@pytest.mark.parametrize(
    ("step", "more", "kept"),
    [
        ({}, "", {**MACHINE, **INFERRED, **STEPPED, **SLICED}),
        ({"step": Outcome("oom", "too large")}, "; then oom: too large", {**MACHINE, **INFERRED}),
    ],
)
def test_after_training_that_diverged_the_speed_is_measured_and_there_is_no_accuracy(
    tmp_path: Path, step: dict[str, Any], more: str, kept: dict[str, tuple[float, ...]]
) -> None:
    record = measurer(FakeWorker(train=DIVERGED, **step), tmp_path).measure(CASE)
    assert (record.status, record.reason) == ("diverged", f"seed 1, epoch 1, step 2{more}")
    assert values(record) == kept
    assert record.provenance["divergence"] == {"epoch": 1, "step": 2}
    assert record.provenance["losses"] == [[2.5]]
    assert from_json(to_json(record), "here") == record


@pytest.mark.parametrize("outcome", [DIVERGED, Outcome("skipped", "policy last_3: expected at least 3 stages")])
def test_pretraining_that_ends_otherwise_ends_the_case(tmp_path: Path, outcome: Outcome[Any]) -> None:
    worker = FakeWorker(pretrain=outcome)
    record = measurer(worker, tmp_path).measure(CASE)
    assert worker.phases == ["device", "pretrain"]
    assert (record.status, record.reason) == (outcome.status, outcome.reason)


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize("settings", [SETTINGS, Settings(accuracy=False, profile=False)])
def test_phases_of_ones_own_follow_the_others(tmp_path: Path, settings: Settings) -> None:
    register(
        Metric("loudness", "W", "higher", "Loudness (W)"), ExtraPhase("sound", "mine:sound"), ExtraPhase("z", "mine:z")
    )
    heard = PhaseResult(warnings=["hoarse"], provenance={"microphone": "left"})
    worker = FakeWorker(sound=measured(heard, loudness=(2.0, 3.0)), z=Outcome("crashed", "z: ValueError: no"))
    record = measurer(worker, tmp_path, settings).measure(Case("resnet18", "full", weights="none"))
    assert worker.phases[-3:] == ["profile" if settings.profile else "step", "sound", "z"]
    assert [call[1].function for call in worker.calls[-2:]] == ["mine:sound", "mine:z"]
    assert (record.status, record.reason) == ("crashed", "z: ValueError: no")
    assert values(record).items() >= {**INFERRED, **STEPPED, "loudness": (2.0, 3.0)}.items()
    assert record.provenance["microphone"] == "left"
    assert "hoarse" in record.warnings
    assert from_json(to_json(record), "here") == record


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize("status", ["crashed", "skipped", "oom"])
def test_the_reason_of_a_phase_of_ones_own_names_it(tmp_path: Path, status: Any) -> None:
    register(ExtraPhase("sound", "mine:sound"))
    record = measurer(FakeWorker(sound=Outcome(status, "expected an ear")), tmp_path).measure(CASE)
    assert (record.status, record.reason) == (status, "sound: expected an ear")
    assert values(record) == {**MACHINE, **TRAINED, **INFERRED, **STEPPED, **SLICED}


@pytest.mark.parametrize(
    ("weights", "settings", "phases"),
    [
        ("imagenet", SETTINGS, ["train", "inference", "step", "profile"]),
        ("mine.pt", Settings(profile=False), ["train", "inference", "step"]),
        ("fashion6", Settings(profile=False, accuracy=False, sweep=64), ["pretrain", "inference", "step", "sweep"]),
    ],
)
def test_only_what_is_wanted_runs_and_only_source_weights_are_pretrained(
    tmp_path: Path, weights: str, settings: Settings, phases: list[str]
) -> None:
    worker = FakeWorker()
    record = measurer(worker, tmp_path, settings).measure(Case("resnet18", "full", weights=weights))
    assert (record.status, worker.phases) == ("ok", ["device", *phases])
    assert ("pretraining" in record.provenance) == ("pretrain" in phases)
    assert ("trace" in record.artifacts) == ("profile" in phases)
    assert record.values("largest_inference_batch") == ((64,) if settings.sweep else ())


@pytest.mark.parametrize(
    ("status", "phase", "kept"),
    [
        ("crashed", "device", {}),
        ("oom", "train", MACHINE),
        ("oom", "step", {**MACHINE, **TRAINED, **INFERRED}),
        ("timeout", "profile", {**MACHINE, **TRAINED, **INFERRED, **STEPPED, **SLICED}),
    ],
)
def test_what_was_measured_before_a_failure_is_kept(
    tmp_path: Path, status: Any, phase: str, kept: dict[str, tuple[float, ...]]
) -> None:
    worker = FakeWorker(**{phase: Outcome(status, "the sky fell")})
    record = measurer(worker, tmp_path).measure(CASE)
    assert (record.status, record.reason) == (status, "the sky fell")
    assert values(record) == kept
    assert worker.phases[-1] == phase, "nothing runs after it"
    assert (record.proof is None) == (phase in {"device", "train"})
    assert len(record.values("wall_time")) == (phase != "device"), "no phase took any"
    assert from_json(to_json(record), "here") == record


def test_a_machine_that_cannot_measure_is_told_in_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_module, "clock_ratio", lambda: 2.0)
    cases = measurer(FakeWorker(peak=Outcome("crashed", "no")), tmp_path)
    for _ in range(2):
        record = cases.measure(CASE)
        assert record.warnings[0].startswith("this machine cannot measure: ")
        assert record.warnings[1] == "the peak was not measured: no"
        assert (record.status, record.values("peak_flops")) == ("ok", ())


def test_a_variant_that_the_device_lacks_is_skipped(tmp_path: Path) -> None:
    worker = FakeWorker(variant=VariantSupport("needs an NVIDIA GPU"))
    record = measurer(worker, tmp_path).measure(Case("resnet18", "full", precision="tf32"))
    assert (record.status, record.reason, record.measurements) == ("skipped", "needs an NVIDIA GPU", ())
    assert worker.phases == ["device", "variant"]


def test_the_machine_is_tested_once_a_session_for_each_variant(tmp_path: Path) -> None:
    worker = FakeWorker()
    cases = measurer(worker, tmp_path)
    for case in (CASE, Case("vgg11", "full"), Case("vgg11", "full", precision="bf16")):
        record = cases.measure(case)
        assert (record.status, record.values("peak_flops")) == ("ok", (2e9,))
    assert record.warnings[0] == "emulated"
    assert [job.precision for phase, job, _ in worker.calls if phase == "peak"] == ["fp32", "bf16"]


def test_what_was_taken_while_throttled_is_invalid(tmp_path: Path) -> None:
    worker = FakeWorker(inference=measured(PhaseResult(invalid=["latency: half was throttled"]), **INFERRED))
    record = measurer(worker, tmp_path).measure(CASE)
    assert (record.status, record.reason) == ("invalid", "latency: half was throttled")
    assert values(record) == {**MACHINE, **TRAINED, **INFERRED, **STEPPED, **SLICED}, "what was measured stays"


def test_a_device_that_is_absent_is_skipped_and_asked_once(tmp_path: Path) -> None:
    worker = FakeWorker(device=DeviceFacts("no such card"))
    cases = measurer(worker, tmp_path)
    for _ in range(2):
        record = cases.measure(Case("resnet18", "full", "cuda"))
        assert (record.status, record.reason) == ("skipped", "no such card")
        assert record.measurements == ()
        assert record.proof is None
    assert worker.phases == ["device"]


@pytest.mark.parametrize("later", [{}, {"step": Outcome("oom", "too large")}])
def test_a_broken_policy_is_invalid_whatever_comes_later(tmp_path: Path, later: dict[str, Outcome]) -> None:
    violations = ("frozen parameters changed: 1 in stage1", "b", "c", "d")
    broken = structs.replace(PROOF, holds=False, violations=violations)
    worker = FakeWorker(train=measured(Training(proofs=[broken, PROOF]), 20, **TRAINED), **later)
    record = measurer(worker, tmp_path).measure(CASE)
    assert record.status == "invalid"
    assert record.reason == "the policy was not kept: frozen parameters changed: 1 in stage1; b; c"
    assert record.proof == broken
    assert values(record).items() >= {**TRAINED, **INFERRED}.items()


GROUP = [Case("resnet18", policy) for policy in ("scratch", "full", "linear_probe")]
GROUP_INFERENCE = tuple(case.id for case in GROUP)
JOURNAL = Path("results", "journal", "machine-1", "run-1.cpu.jsonl")


def of(record: Record, metric: str) -> Any:
    return next(one for one in record.measurements if one.metric == metric)


def test_a_group_is_timed_when_its_first_cell_runs_and_each_has_its_share(
    tmp_path: Path, live: type[FakeLive], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking(monkeypatch, cell_module, "perf_counter", 8.5)
    monkeypatch.setattr(rounds_module.Rounds.__init__, "__kwdefaults__", {
        **rounds_module.Rounds.__init__.__kwdefaults__, "clock": itertools.count(0.0, 3.0).__next__,
    })  # fmt: skip
    servers: list[FakeWorker] = []
    allocators: list[str] = []

    def server(threads: int, allocator: str) -> FakeWorker:
        assert threads == SETTINGS.threads
        allocators.append(allocator)
        servers.append(FakeWorker())
        return servers[-1]

    settings = replace(SETTINGS, accuracy=False, profile=False, processes=2)
    cells = measurer(FakeWorker(), tmp_path, settings, server=server)
    cells.expect(GROUP)
    first = cells.measure(GROUP[0])
    # One inference for all, one full step for two of them, and the step of the head.
    assert [(job.case.policy, job.case.weights) for job in live.jobs] == [
        ("full", "none"), ("scratch", "none"), ("linear_probe", "none"),
    ] * 2  # fmt: skip
    taken = len(live.commands)
    records = [first, *(cells.measure(case) for case in GROUP[1:])]
    assert len(live.commands) == taken
    # The first of each subject is of the one that is there, beside which another reads memory.
    assert allocators == ["pinned", MEMORY, "pinned"], "each process is of a server of its own"
    assert [server.closed for server in servers] == [0, 0, 1]
    for record in records:
        assert record.status == "ok"
        assert of(record, "latency").slices.shared == GROUP_INFERENCE
        assert set(of(record, "latency").slices.processes) == {0, 1}
        assert of(record, "latency") == of(first, "latency")
        assert of(record, "train_throughput").slices.group == "run-1 cpu"
    assert of(records[0], "train_throughput").slices.shared == (GROUP[0].id, GROUP[1].id)
    assert of(records[0], "train_throughput") == of(records[1], "train_throughput")
    assert of(records[2], "train_throughput").slices.shared == ()
    shares = [record.provenance["seconds"]["slices"] for record in records]
    assert shares[0] == shares[1]
    assert shares[0] < shares[2], "who shares a step pays half of it"
    for record, share in zip(records, shares, strict=True):
        own = 8.5 * (len(record.provenance["seconds"]) - 1)
        assert record.values("wall_time") == pytest.approx([own + share]), "its own phases, and its share"
    # Two looks at the clock for each warm-up and slice.
    everything = 3.0 * (taken + 2 * len(GROUP) * 2)
    assert sum(shares) == pytest.approx(everything)
    cells.close()
    assert [server.closed for server in servers] == [1, 1, 1]


def test_a_process_that_ends_fails_only_the_cells_that_share_it(tmp_path: Path, live: type[FakeLive]) -> None:
    live.ends["resnet18-scratch-cpu", "train_throughput"] = Outcome("crashed", "signal SIGSEGV")
    cells = measurer(FakeWorker(), tmp_path)
    cells.expect(GROUP)
    records = [cells.measure(case) for case in GROUP]
    assert [(record.status, record.reason) for record in records] == [("crashed", "signal SIGSEGV")] * 2 + [("ok", "")]
    for record in records:
        assert record.values("latency") == SLICED["latency"], "what else was measured of it stays"
    assert [record.values("train_throughput") for record in records] == [(), (), SLICED["train_throughput"]]


def test_a_case_that_was_not_announced_is_timed_alone(tmp_path: Path, live: type[FakeLive]) -> None:
    cells = measurer(FakeWorker(), tmp_path)
    cells.measure(GROUP[0])
    assert [job.case.id for job in live.jobs] == ["resnet18-full-cpu-none", "resnet18-scratch-cpu"]
    record = cells.measure(Case("vgg11", "scratch"))
    assert [job.case.architecture for job in live.jobs[2:]] == ["vgg11"] * 2
    assert of(record, "latency").slices.shared == ()


def test_cells_of_another_device_are_another_group(tmp_path: Path, live: type[FakeLive]) -> None:
    cells = measurer(FakeWorker(), tmp_path)
    other = Case("resnet18", "scratch", "cuda")
    cells.expect([GROUP[0], other])
    cells.measure(GROUP[0])
    assert {job.case.device for job in live.jobs} == {"cpu"}
    record = cells.measure(other)
    assert of(record, "latency").slices.group == "run-1 cuda"


def test_slices_are_kept_until_all_that_was_announced_has_a_record(tmp_path: Path, live: type[FakeLive]) -> None:
    cells = measurer(FakeWorker(), tmp_path)
    cells.expect(GROUP)
    cells.measure(GROUP[0])
    cells.close()
    _, *kept = (tmp_path / JOURNAL).read_bytes().splitlines()
    # One inference and two steps, each with a metric of four slices; inference has another, each step one of two.
    assert len(kept) == len(live.commands) == 4 * (2 + 1 + 1) + 2 + 2
    again = measurer(FakeWorker(), tmp_path)
    again.expect(GROUP[1:])
    records = [again.measure(case) for case in GROUP[1:]]
    assert len(live.commands) == len(kept), "nothing is timed twice"
    assert [values(record).items() >= SLICED.items() for record in records] == [True, True]
    again.close()
    assert not (tmp_path / JOURNAL).exists()


def test_after_an_interrupt_timing_goes_on_where_it_ended(tmp_path: Path, live: type[FakeLive]) -> None:
    live.ends["resnet18-full-cpu-none", "inference_throughput"] = KeyboardInterrupt()
    cells = measurer(FakeWorker(), tmp_path)
    cells.expect(GROUP)
    with pytest.raises(KeyboardInterrupt):
        cells.measure(GROUP[0])
    cells.close()
    live.ends.clear()
    done = (tmp_path / JOURNAL).read_bytes().count(b"\n") if (tmp_path / JOURNAL).exists() else 0
    # The settings, and all slices but the last, which was interrupted; nothing before the first.
    assert done == (len(live.commands) if len(live.commands) > 1 else 0)
    again = measurer(FakeWorker(), tmp_path)
    again.expect(GROUP)
    record = again.measure(GROUP[0])
    assert record.status == "ok"
    assert len(series_of(of(record, "inference_throughput")).logs) >= 4
    again.close()
    assert (tmp_path / JOURNAL).exists(), "two cells have no record yet"


def ticking(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, step: float) -> None:
    """Let each look at a module's clock take time."""
    times = itertools.count(100.0, step)
    monkeypatch.setattr(module, "time", SimpleNamespace(**{name: lambda: next(times)}))


def test_wall_time_is_that_of_the_phases_and_not_of_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch, cell_module, "perf_counter", 8.5)
    settings = replace(SETTINGS, accuracy=False, profile=False)
    record = measurer(FakeWorker(), tmp_path, settings).measure(Case("resnet18", "full", weights="none"))
    seconds = record.provenance["seconds"]
    assert list(seconds) == ["inference", "step", "slices"]
    assert (seconds["inference"], seconds["step"]) == (8.5, 8.5)
    assert 0 <= seconds["slices"] < 8.5, "what the live processes took, by their own clock"
    assert record.values("wall_time") == pytest.approx([17.0 + seconds["slices"]], abs=1e-3)


def test_one_case_at_a_time_on_a_device(tmp_path: Path) -> None:
    def is_held(name: str) -> bool:
        try:
            with FileLock(tmp_path / "cache" / f"device-{name}.lock", timeout=0):
                return False
        except Timeout:
            return True

    held: list[tuple[bool, bool]] = []

    class Looking(FakeWorker):
        def run(self, phase: Phase[Any, R], job: Any, timeout: float, progress: Any = None) -> Outcome[R]:
            if phase.name == "train":
                held.append((is_held("cuda-1"), is_held("cuda")))
            return super().run(phase, job, timeout, progress)

    measurer(Looking(), tmp_path).measure(Case("resnet18", "full", "cuda:1"))
    assert held == [(True, False)]
    assert not is_held("cuda-1")


def test_a_module_that_was_started_is_a_command_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/lib/pytest/__main__.py", "-x"])
    assert cell_module.command() == "pytest -x"


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASHIONTL_CACHE", raising=False)
    assert cell_module.cache_folder().name == "fashiontl"
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "a" / "b"))
    cell_module.check_cache()
    assert cell_module.cache_folder() == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    folder = os.fspath(tmp_path / "file" / "cache")
    monkeypatch.setenv("FASHIONTL_CACHE", folder)
    with pytest.raises(FashiontlError) as caught:
        cell_module.check_cache()
    assert f"got {folder}: Not a directory; free it, or name another with FASHIONTL_CACHE" in str(caught.value)


def test_what_an_architecture_computes_is_counted_once(tmp_path: Path) -> None:
    work = Work(30.0, 2.0, {"head": 40.0}, False)
    worker = FakeWorker(count=work)
    counting = measurer(worker, tmp_path)
    assert counting.count(CASE) == counting.count(Case("resnet18", "scratch")) == work
    assert [phase for phase, *_ in worker.calls] == ["count"]
    counting.count(Case("vgg11", "full"))
    counting.count(Case("resnet18", "full", image_size=64))
    assert [phase for phase, *_ in worker.calls] == ["count"] * 3
    assert measurer(FakeWorker(count=Outcome("crashed", "gone")), tmp_path).count(CASE) is None
