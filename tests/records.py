"""Made-up records, alike to what a run leaves, for tests of what reads them, and the tables of pages made of them."""

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.metrics import Measurement, Slices
from fashiontl.machine.environment import Environment, machine_key
from fashiontl.records import SCHEMA, Record
from fashiontl.records.facts import Proof

LAPTOP = Environment(
    python="3.12.4", torch="2.13.0+cpu", torchvision="0.28.0", fashiontl="0.1.0",
    git_sha="0123456789abcdef0123456789abcdef01234567", git_dirty=False, os="Linux 6.8.0 x86_64", cpu="AMD EPYC 7763",
    logical_cores=4, usable_cores=2.0, threads=2, memory=8 * 2**30, accelerator=None, driver=None, cuda=None,
    cudnn=None, load=0.25,
)  # fmt: skip
SERVER = dataclasses.replace(
    LAPTOP, torch="2.13.0+cu130", accelerator="NVIDIA H100 80GB HBM3", driver="580.65.06", cuda="13.0", cudnn="91300",
    logical_cores=96, usable_cores=16.0, threads=16, memory=128 * 2**30,
)  # fmt: skip
PROOF = Proof(holds=True, frozen_parameters=60, frozen_buffers=60, trained_parameters=2)

# Parameters (million), GFLOP of one 32-pixel image, and a speed factor.
_NETWORKS = {
    "vgg11": (128.8, 0.55, 0.4), "resnet18": (11.2, 0.07, 1.0), "mobilenet_v2": (2.2, 0.013, 0.8),
    "densenet121": (7.0, 0.12, 0.25),
}  # fmt: skip
# Share of the parameters that train, speed of training, accuracy.
_POLICIES = {
    "scratch": (1.0, 1.0, 0.86), "linear_probe": (0.0003, 3.1, 0.885), "last_stage": (0.75, 2.2, 0.915),
    "full": (1.0, 1.0, 0.93), "bn_only": (0.001, 1.3, 0.905),
}  # fmt: skip
# What a precision does to speed and to the measured peak.
_PRECISIONS = {"fp32": 1.0, "tf32": 3.0, "bf16": 6.0, "fp16": 6.0}


def record(
    case: Case, *, number: int = 0, environment: Environment = LAPTOP, old: bool = False, **fields: Any
) -> Record:
    """A record of a case that went well; fields replace its own.

    An old one is from when latency, throughput and peaks of memory were all that was measured of speed, each in one
    stretch.
    """
    settings: Settings = fields.get("settings", PRESETS["quick"])
    values = {
        "schema": SCHEMA, "id": case.id, "run": "20260102T030405Z-01234567-abc123", "command": "pytest bench/",
        "started": f"2026-01-02T03:{number // 60:02}:{number % 60:02}+00:00", "case": case, "settings": settings,
        "environment": environment, "machine": machine_key(environment), "status": "ok", "reason": "",
        "warnings": (), "proof": PROOF,
        "provenance": {
            "data": {"source": "the package's own selection", "sha256": "d1" * 32},
            "weights": {"name": case.weights, "sha256": "e2" * 32} if case.weights != "none" else {"name": "none"},
            "losses": [[1.25, 0.5]],
            **({} if old else _speed_facts(case, settings)),
        },
        "artifacts": {},
    }  # fmt: skip
    if "measurements" not in fields:
        values["measurements"] = measurements(case, settings, number, old=old)
    return Record(**{**values, **fields})


def measurements(case: Case, settings: Settings, seed: int = 0, *, old: bool = False) -> tuple[Measurement, ...]:
    """Plausible numbers, the same for the same arguments."""
    draw = random.Random(f"{case.id} {seed}")
    parameters, gflop, speed = _network(case.architecture)
    share, training, accuracy = _policy(case.policy)
    speed *= _speed_factor(case)
    trials = settings.test_per_class * 4 or 10_000

    def many(centre: float, count: int) -> tuple[float, ...]:
        return tuple(centre * draw.lognormvariate(0, 0.03) for _ in range(count))

    def timed(metric: str, centre: float, count: int) -> Measurement:
        """In one stretch, or in slices of which each of three processes takes eight."""
        if old:
            return Measurement(metric, many(centre, count))
        return sliced(metric, *(many(centre, 8) for _ in range(3)), samples=-(-count // 24))

    first = (
        Measurement(
            "accuracy",
            tuple(round((accuracy + draw.gauss(0, 0.015)) * trials) / trials for _ in range(settings.seeds)),
            trials,
        ),
        Measurement("training_time", many(20 / speed, settings.seeds)),
        timed("latency", 0.006 / speed, 100 if old else settings.samples),
        timed("inference_throughput", 640 * speed, 30),
        timed("train_throughput", 190 * speed * training, 30),
        Measurement("inference_peak_memory", many(parameters * 5e6, 1)),
        Measurement("training_peak_memory", many(parameters * 1.5e7, 1)),
        Measurement("base_memory", (3.1e8,)),
        Measurement("parameters", (float(round(parameters * 1e6)),)),
        Measurement("trainable_parameters", (round(parameters * 1e6 * share),)),
        Measurement("flops", (gflop * 1e9,)),
        Measurement("wall_time", many(50 / speed, 1)),
    )
    if old:
        return first
    batch = case.batch or settings.throughput_batch
    step = batch / (190 * speed * training)
    parts = {"data": 0.05 * step * training, "forward": 0.3 * step, "backward": 0.6 * step, "optimizer": 0.1 * step}
    single = {
        "load_time": 0.05 + parameters / 400, "first_call_time": 0.05 / speed, "first_step_time": 0.2 / speed,
        "inference_process_memory": 3.1e8 + parameters * 5e6, "training_process_memory": 3.1e8 + parameters * 1.5e7,
        "training_flops": gflop * 3e9 / training, "peak_flops": _peak(case),
    }  # fmt: skip
    if case.execution == "compile":
        single |= {"inference_compile_time": 12.0, "training_compile_time": 31.0}
    if case.device.startswith("cuda"):
        single |= {f"{phase}_reserved_memory": parameters * 2e7 for phase in ("inference", "training")}
        single |= {"inference_energy": gflop * 0.02, "training_energy": gflop * 0.07 / training, "idle_power": 71.5}
        first += (timed("device_latency", 0.004 / speed, settings.samples),)
    if settings.sweep:
        single["largest_training_batch"] = 64
    return (
        *first,
        timed("end_to_end_throughput", batch / sum(parts.values()), 30),
        *(timed(f"step_{name}_time", seconds, 30) for name, seconds in parts.items()),
        *(Measurement(name, many(value, 1) if name.endswith("time") else (value,)) for name, value in single.items()),
    )


def sliced(
    metric: str, *processes: Sequence[float], group: str = "group", samples: int = 2, **parts: Any
) -> Measurement:
    """A measurement in slices: of each process the medians of its slices, one a round, in the order of time.

    Rounds go on from process to process, as each is of a later wave. `parts` are more of `Slices`.
    """
    medians = [(median, process) for process, own in enumerate(processes) for median in own]
    count = len(medians)
    values = tuple(median for median, _ in medians for _ in range(samples))
    slices = Slices(
        group, (samples,) * count, tuple(process for _, process in medians), tuple(range(count)),
        tuple(1.5 * index for index in range(count)), **parts,
    )  # fmt: skip
    return Measurement(metric, values, slices=slices)


def _speed_factor(case: Case) -> float:
    """How many times as fast as in float32 on the CPU."""
    cuda = 40 if case.device.startswith("cuda") else 1
    return cuda * _PRECISIONS[case.precision] ** 0.5 * (1.3 if case.execution == "compile" else 1)


def _peak(case: Case) -> float:
    return (5e13 if case.device.startswith("cuda") else 2.4e11) * _PRECISIONS[case.precision]


def _speed_facts(case: Case, settings: Settings) -> dict[str, Any]:
    """What a record's provenance holds of its measurements of speed."""
    loop = {"warm_up": 24, "steady": True, "drift": 0.004, "noise": 0.011, "ended": "precise", "throttled": 0}
    facts: dict[str, Any] = {
        "timing": {
            "latency": loop,
            "inference_throughput": loop,
            "train_throughput": loop | {"ended": "time"},
            "end_to_end_throughput": loop | {"ended": "time"},
        },
        "conditions": {"before": {"load": 0.25}, "after": {"load": 1.5}},
        "peak": {"matmul": _peak(case) * 0.9, "convolution": _peak(case)},
    }
    if case.execution == "compile":
        graphs = {"graphs": 1, "graph_breaks": 0, "recompiles": 0}
        facts["compile"] = {"inference": graphs, "training": graphs | {"graphs": 3, "graph_breaks": 2}}
    if settings.sweep:
        facts["sweep"] = {
            "inference": sweep(settings.sweep, settings.sweep, "setting", 1e-3 / _speed_factor(case)),
            "training": sweep(settings.sweep, 64, "memory", 4e-3 / _speed_factor(case)),
        }
    return facts


def sweep(most: int, largest: int, limit: str, seconds: float) -> dict[str, Any]:
    """What a record's provenance holds of a sweep in which a call takes some seconds, and more for larger batches."""
    batches = [2**power for power in range(20) if 2**power <= min(most, largest)]
    points = [
        {"batch": batch, "seconds": [seconds * (1 + batch / 16) * (1 + step / 500) for step in range(9)]}
        for batch in batches
    ]
    return {"points": points, "largest": largest, "limit": limit}


def _network(name: str) -> tuple[float, float, float]:
    """Of a hybrid those of its members together; of any other name ones drawn from it."""
    if name in _NETWORKS:
        return _NETWORKS[name]
    if "+" in name:
        parts = [_network(part) for part in name.partition(":")[2].split("+")]
        parameters, gflops, speeds = zip(*parts, strict=True)
        return sum(parameters), sum(gflops), 1 / sum(1 / speed for speed in speeds)
    draw = random.Random(name)
    return draw.uniform(2, 90), draw.uniform(0.01, 1), draw.uniform(0.2, 2)


def _policy(name: str) -> tuple[float, float, float]:
    draw = random.Random(name)
    return _POLICIES.get(name) or (draw.random(), draw.uniform(1, 4), draw.uniform(0.85, 0.94))


def evaluation(accuracy: float, classes: int, images: int, seed: int = 0) -> dict[str, Any]:
    """What a record's provenance holds of one seed's answers, the same for the same arguments.

    Args:
        accuracy: about which that of each class lies.
        classes: of the task.
        images: test images of each class.
        seed: of the random numbers.
    """
    draw = random.Random(f"{accuracy} {classes} {images} {seed}")
    confusion = [[0] * classes for _ in range(classes)]
    for label, row in enumerate(confusion):
        row[label] = min(images, max(0, round(images * (accuracy + draw.gauss(0, 0.04)))))
        row[(label + 1) % classes] += images - row[label]
    return {
        "accuracy": sum(confusion[label][label] for label in range(classes)) / (classes * images),
        "confusion": confusion, "loss": 3 * (1 - accuracy), "calibration_error": (1 - accuracy) / 4,
    }  # fmt: skip


def evaluated(case: Case, number: int = 0, classes: int = 4, **fields: Any) -> Record:
    """A record with the answers of each seed, and what else the newest provenance holds."""
    made = record(case, number=number, **fields)
    accuracies = made.values("accuracy")
    newest = {
        "evaluation": [evaluation(each, classes, 200, seed) for seed, each in enumerate(accuracies)],
        "image_size": made.settings.image_size, "deterministic": True, "trained": ["f3" * 32] * len(accuracies),
        "validation": [{"accuracies": [], "chosen": made.settings.epochs - 1}] * len(accuracies), "extensions": {},
    }  # fmt: skip
    return replace(made, provenance=made.provenance | newest)


def matrix(
    device: str = "cpu",
    task: str = "fashion4",
    environment: Environment = LAPTOP,
    variants: Sequence[Mapping[str, Any]] = ({},),
    **fields: Any,
) -> list[Record]:
    """A run of four architectures and five policies, each in every variant (fields of `Case`)."""
    cases = [
        Case(network, policy, device, task, **variant)
        for network in _NETWORKS
        for policy in _POLICIES
        for variant in variants
    ]
    return [record(case, number=number, environment=environment, **fields) for number, case in enumerate(cases)]


def failed(case: Case, status: str, reason: str, **fields: Any) -> Record:
    """A record of a case that ended before anything was measured."""
    nothing = {"measurements": (), "proof": None, "provenance": {}}
    return record(case, status=status, reason=reason, **{**nothing, **fields})


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(page: str) -> list[list[list[str]]]:
    """Cells of each table's lines, without the line of dashes."""
    blocks = re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE)
    return [[_cells(line) for line in block.splitlines() if not line.startswith("|:")] for block in blocks]
