"""What is reported: each metric's unit, which way is better, and how it is shown. No torch, no I/O."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "equal"]


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: key in records.
        unit: base unit of the raw values (`s`, `B`, `images/s`, `1` for fractions and counts).
        better: which way is better; `equal` means that any change is a finding.
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


_ALL = (
    Metric("accuracy", "1", "higher", "Accuracy (%)", 100.0),
    Metric("train_throughput", "images/s", "higher", "Training (images/s)"),
    Metric("inference_throughput", "images/s", "higher", "Inference (images/s)"),
    Metric("latency", "s", "lower", "Latency (ms)", 1e3),
    Metric("training_peak_memory", "B", "lower", "Training peak (MiB)", 1 / 2**20),
    Metric("inference_peak_memory", "B", "lower", "Inference peak (MiB)", 1 / 2**20),
    Metric("base_memory", "B", "lower", "Empty worker (MiB)", 1 / 2**20),
    Metric("parameters", "1", "equal", "Parameters (M)", 1e-6),
    Metric("trainable_parameters", "1", "equal", "Trainable (M)", 1e-6),
    Metric("flops", "FLOP", "equal", "GFLOP/image", 1e-9),
    Metric("training_time", "s", "lower", "Training time (s)"),
    Metric("wall_time", "s", "lower", "Case time (s)"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


@dataclass(frozen=True)
class Measurement:
    """Raw values of one metric, in its base unit; statistics are derived from them, never stored alone.

    Attributes:
        metric: a key of `METRICS`.
        values: one number a sample (latency, throughput), a seed (accuracy, training time), or just one.
            Empty means unknown, shown as `—`.
        trials: for accuracy, how many test images each value is a fraction of; otherwise 0.
    """

    metric: str
    values: tuple[float, ...]
    trials: int = 0

    @property
    def unit(self) -> str:
        """Base unit of `values`."""
        return METRICS[self.metric].unit
