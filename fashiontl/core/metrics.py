"""What is reported: each metric's unit, which way is better, and how it is shown. No torch, no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

Better = Literal["higher", "lower", "equal"]


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: key in records.
        unit: base unit of the raw values (`s`, `B`, `J/image`, `images/s`, `1` for fractions and counts).
        better: `equal` means that any change is a finding.
        label: column header in tables, with the unit that is shown.
        scale: raw value times `scale` is the number shown.
        digits: significant digits shown.
    """

    name: str
    unit: str
    better: Better
    label: str
    scale: float = 1.0
    digits: int = 3

    @property
    def least(self) -> float:
        """The least that a raw value can be, in the base unit."""
        return 0.0 if self.unit in _COUNTED or self.name in _MAY_BE_NOTHING else 1e-12

    def outside(self, values: Iterable[float]) -> float | None:
        """The first value below `least` or above `most`; None where there is none."""
        return next((value for value in values if not self.least <= value <= self.most), None)

    @property
    def most(self) -> float:
        """The most that a raw value can be, in the base unit: far beyond any machine of today."""
        return 1.0 if self.name == "accuracy" else _MOST[self.unit]


# By unit: 30 years, an exabyte, a thousand times the largest networks and machines.
_MOST = {
    "1": 1e15, "s": 1e9, "B": 1e18, "images/s": 1e12, "J/image": 1e9, "W": 1e9, "images": 2.0**31, "FLOP": 1e18,
    "FLOP/s": 1e18,
}  # fmt: skip
_COUNTED = {"1", "B", "images", "FLOP"}


def unit_errors(metric: Metric) -> list[str]:
    """What is wrong with a metric's unit and direction; the range of its values follows from its unit."""
    errors = []
    if metric.unit not in _MOST:
        errors.append(f"expected a unit of {', '.join(_MOST)}, got {metric.unit!r}")
    if metric.better not in get_args(Better):
        errors.append(f"expected better to be {', '.join(get_args(Better))}, got {metric.better!r}")
    return errors


# Parts that there may be nothing of, and differences.
_MAY_BE_NOTHING = {
    "step_data_time", "step_forward_time", "step_backward_time", "step_optimizer_time", "inference_compile_time",
    "training_compile_time",
}  # fmt: skip


_MIB = 1 / 2**20
_ALL = (
    Metric("accuracy", "1", "higher", "Accuracy (%)", 100.0),
    Metric("train_throughput", "images/s", "higher", "Training (images/s)"),
    Metric("inference_throughput", "images/s", "higher", "Inference (images/s)"),
    Metric("end_to_end_throughput", "images/s", "higher", "End to end (images/s)"),
    Metric("latency", "s", "lower", "Latency (ms)", 1e3),
    Metric("device_latency", "s", "lower", "Device latency (ms)", 1e3),
    Metric("load_time", "s", "lower", "Load (s)"),
    Metric("first_call_time", "s", "lower", "First inference (s)"),
    Metric("first_step_time", "s", "lower", "First step (s)"),
    Metric("inference_compile_time", "s", "lower", "Compile inference (s)"),
    Metric("training_compile_time", "s", "lower", "Compile training (s)"),
    Metric("step_data_time", "s", "lower", "Data (ms)", 1e3),
    Metric("step_forward_time", "s", "lower", "Forward (ms)", 1e3),
    Metric("step_backward_time", "s", "lower", "Backward (ms)", 1e3),
    Metric("step_optimizer_time", "s", "lower", "Optimiser (ms)", 1e3),
    Metric("training_peak_memory", "B", "lower", "Training peak (MiB)", _MIB),
    Metric("inference_peak_memory", "B", "lower", "Inference peak (MiB)", _MIB),
    Metric("training_reserved_memory", "B", "lower", "Training reserved (MiB)", _MIB),
    Metric("inference_reserved_memory", "B", "lower", "Inference reserved (MiB)", _MIB),
    Metric("training_process_memory", "B", "lower", "Training process (MiB)", _MIB),
    Metric("inference_process_memory", "B", "lower", "Inference process (MiB)", _MIB),
    Metric("base_memory", "B", "lower", "Empty worker (MiB)", _MIB),
    Metric("inference_energy", "J/image", "lower", "Inference (J/image)"),
    Metric("training_energy", "J/image", "lower", "Training (J/image)"),
    Metric("idle_power", "W", "lower", "Idle (W)"),
    Metric("largest_inference_batch", "images", "higher", "Largest inference batch"),
    Metric("largest_training_batch", "images", "higher", "Largest training batch"),
    Metric("parameters", "1", "equal", "Parameters (M)", 1e-6),
    Metric("trainable_parameters", "1", "equal", "Trainable (M)", 1e-6),
    Metric("flops", "FLOP", "equal", "Forward (GFLOP/image)", 1e-9),
    Metric("training_flops", "FLOP", "equal", "Training (GFLOP/image)", 1e-9),
    Metric("peak_flops", "FLOP/s", "higher", "Measured peak (GFLOP/s)", 1e-9),
    Metric("training_time", "s", "lower", "Training time (s)"),
    Metric("wall_time", "s", "lower", "Case time (s)"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


class Slices(Struct, frozen=True, omit_defaults=True):
    """How the values of a timed measurement were taken: in short slices, in turns with other cells.

    `counts`, `processes`, `rounds`, `starts` and each of `conditions` have one entry a slice, in the order of time.

    Attributes:
        group: which stretch of a session; slices of one group and round were taken within seconds of each other, so
            that two cells can be compared round by round.
        counts: how many of the measurement's values belong to each slice.
        processes: which process took it: each is a fresh one, of a server of its own.
        rounds: the round of the group.
        starts: seconds since the group began.
        disturbed: why slices are marked, and which, by their index.
        conditions: what was read of the machine during each slice, by name.
        prior: what the other cells of the group suggest of the spread of processes (the two numbers of
            `fashiontl.core.slices.Prior`); none where there were no others.
        shared: ids of the cells whose measurement this is, when it is that of several.
        common: logarithm of the factor by which the values of all cells of the group were greater in the slice's
            round than in others; empty where that is not known.
    """

    group: str
    counts: tuple[Annotated[int, Meta(ge=0, le=10**7)], ...]
    processes: tuple[Annotated[int, Meta(ge=0, le=10**6)], ...]
    rounds: tuple[Annotated[int, Meta(ge=0, le=10**9)], ...]
    starts: tuple[float, ...]
    disturbed: dict[str, tuple[Annotated[int, Meta(ge=0, le=10**9)], ...]] = {}
    conditions: dict[str, tuple[float, ...]] = {}
    prior: tuple[Annotated[float, Meta(ge=0)], Annotated[float, Meta(ge=0)]] | None = None
    shared: tuple[str, ...] = ()
    common: tuple[float, ...] = ()


class Measurement(Struct, frozen=True):
    """Raw values of one metric, in its base unit; statistics are derived from them, never stored alone.

    Attributes:
        metric: a key of `METRICS`; records of other versions may hold others, which nothing shows.
        values: one number a sample (latency, throughput), a seed (accuracy, training time), or just one.
            Empty means unknown, shown as `—`.
        trials: for accuracy, how many test images each value is a fraction of; otherwise 0.
        slices: how the values were taken; None for what is not timed in slices, and in records of older versions, whose
            values are those of a single stretch in a single process.
    """

    metric: str
    values: tuple[float, ...]
    trials: Annotated[int, Meta(ge=0, le=2**53)] = 0
    slices: Slices | None = None

    @property
    def unit(self) -> str:
        """Base unit of `values`; empty for a metric that this version does not know."""
        return METRICS[self.metric].unit if self.metric in METRICS else ""
