"""Columns of numbers: what each shows of a record's raw values, and in which tables they stand together."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

from fashiontl.core.metrics import METRICS, Better, Measurement, Metric
from fashiontl.core.slices import interval_of, quantile_interval
from fashiontl.core.stats import Interval, accuracy_interval, median_interval, percentile_interval

# Each by its metric's name, with one value or more.
Measured = Mapping[str, Measurement]
_Statistic = Callable[[Measured], Interval | None]

# Two of 20 values lie beyond a 90th percentile and ten of 1,000 beyond a 99th; from fewer either is little more than
# the maximum.
_FEWEST = {90: 20, 99: 1000}

_STEP_PARTS = ("step_data_time", "step_forward_time", "step_backward_time", "step_optimizer_time")

# Metrics that are timed in slices. Older records have one stretch in one process of them.
TIMED = (
    "latency", "device_latency", "inference_throughput", "train_throughput", "end_to_end_throughput", *_STEP_PARTS,
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        label: a header that no other has.
        metric: how it is shown.
        statistic: what it is in base units.
        timed: the metric that is timed in slices from which it comes; empty when there is none.
    """

    label: str
    metric: Metric
    statistic: _Statistic
    timed: str = ""

    @property
    def typical(self) -> bool:
        """Whether it is the typical value of a timed metric itself, which the metric's slices estimate."""
        return bool(self.timed) and self.statistic is _typical(self.timed)


class Group(NamedTuple):
    """Columns that stand side by side, and what they are in one line of Markdown."""

    columns: tuple[Column, ...]
    legend: str


# Test images are few, so that the same counts of them come again and again.
accuracy_of = functools.lru_cache(maxsize=2**14)(accuracy_interval)


def of_slices(measurement: Measurement) -> Interval:
    """The typical value: what slices estimate, else the median of a single stretch."""
    return interval_of(measurement) if measurement.slices else median_interval(measurement.values)


@functools.cache
def _typical(name: str) -> _Statistic:
    return lambda measured: of_slices(measured[name]) if name in measured else None


def _column(name: str, statistic: _Statistic | None = None, label: str = "", better: Better | None = None) -> Column:
    metric = replace(METRICS[name], label=label or METRICS[name].label, better=better or METRICS[name].better)
    return Column(metric.label, metric, statistic or _typical(name), name if name in TIMED else "")


def _circumstance(name: str) -> Column:
    """Of the machine and not of the network, so that none is best; 0 is unknown."""
    return _column(
        name,
        lambda measured: median_interval(found.values) if (found := measured.get(name)) and any(found.values) else None,
        better="equal",
    )


def _fraction(label: str, better: Better, statistic: _Statistic, timed: str) -> Column:
    return Column(label, Metric("", "1", better, label, 100.0), statistic, timed)


def _accuracy(measured: Measured) -> Interval | None:
    found = measured.get("accuracy")
    return accuracy_of(found.values, found.trials) if found else None


def _latency_percentile(q: int) -> Column:
    def statistic(measured: Measured) -> Interval | None:
        found = measured.get("latency")
        if found is None or len(found.values) < _FEWEST[q]:
            return None
        return quantile_interval(found, q) if found.slices else percentile_interval(found.values, q)

    return _column("latency", statistic, f"Latency p{q} (ms)")


def waiting_share(measured: Measured) -> Interval | None:
    """The share of a step's time that goes into its data, as the median over the steps that were timed."""
    parts = [measured[name].values for name in _STEP_PARTS if name in measured]
    if len(parts) < len(_STEP_PARTS) or len(set(map(len, parts))) > 1:
        return None
    if slices := measured[_STEP_PARTS[0]].slices:
        # Then no part of a step takes nothing.
        return interval_of(Measurement("", tuple(step[0] / sum(step) for step in zip(*parts, strict=True)), 0, slices))
    shares = [step[0] / sum(step) for step in zip(*parts, strict=True) if sum(step) > 0]
    return median_interval(shares) if shares else None


def _share_of_peak(label: str, arithmetic: str, throughput: str) -> Column:
    """FLOP an image times images a second, over the peak in FLOP/s; its interval is the throughput's."""

    def statistic(measured: Measured) -> Interval | None:
        if not {arithmetic, throughput, "peak_flops"} <= measured.keys():
            return None
        flops, peak = median(measured[arithmetic].values), median(measured["peak_flops"].values)
        found = of_slices(measured[throughput])
        share = flops / peak if peak > 0 else 0
        return Interval(*(share * bound for bound in (found.estimate, found.low, found.high))) if share > 0 else None

    return _fraction(label, "higher", statistic, throughput)


ACCURACY = _column("accuracy", _accuracy)
TRAINING = _column("train_throughput")
INFERENCE = _column("inference_throughput")
LATENCY = _column("latency", label="Latency p50 (ms)")
P90, P99 = _latency_percentile(90), _latency_percentile(99)
TRAINING_MEMORY = _column("training_peak_memory")
INFERENCE_MEMORY = _column("inference_peak_memory")
FLOPS = _column("flops")
PEAK = _circumstance("peak_flops")
BASE_MEMORY = _circumstance("base_memory")

COLUMNS = (
    ACCURACY, TRAINING, INFERENCE, LATENCY, P90, P99, TRAINING_MEMORY, INFERENCE_MEMORY,
    _column("trainable_parameters"),
)  # fmt: skip
SIZES = (_column("parameters"), FLOPS, _column("training_time"), _column("wall_time"))
# What fits the width of a terminal.
SUMMARY = (ACCURACY, TRAINING, INFERENCE, LATENCY, TRAINING_MEMORY)

LATENCIES = (
    Group(
        (LATENCY, P90, P99),
        "**Latency**: one image, from the call until the device has finished; p90 takes 20 calls or more, p99 1,000.",
    ),
    Group((_column("device_latency"),), "**Device latency**: the same calls in the device's own time, their median."),
    Group((_column("load_time"),), "**Load**: making the network, reading its weights, moving it to the device."),
    Group(
        (_column("first_call_time"), _column("first_step_time")),
        "**First inference**, **first step**: calls in which libraries load and algorithms are chosen; if compiled, "
        "the compiler too.",
    ),
    Group(
        (_column("inference_compile_time"), _column("training_compile_time")),
        "**Compile**: the first call less the median of steady ones; nothing was compiled before.",
    ),
)
STEP = (
    Group((TRAINING,), "**Training**: steps on one batch that stays on the device."),
    Group(
        (_column("end_to_end_throughput"),),
        "**End to end**: steps that make each batch of the case's images, stored as 8-bit numbers.",
    ),
    Group(
        tuple(map(_column, _STEP_PARTS)),
        "**Data**, **forward**, **backward**, **optimiser**: parts of one step end to end; forward includes the loss.",
    ),
    Group(
        (_fraction("Waiting for data (%)", "lower", waiting_share, _STEP_PARTS[0]),),
        "**Waiting for data**: the share of data in the four; the median over steps.",
    ),
)
MEMORY = (
    Group(
        (INFERENCE_MEMORY, TRAINING_MEMORY),
        "**Peak**: on the CPU the process's high-water mark less the empty worker's; else the most that torch held.",
    ),
    Group(
        tuple(_column(f"{phase}_reserved_memory") for phase in ("inference", "training")),
        "**Reserved**: what torch's allocator took from the device at most.",
    ),
    Group(
        tuple(_column(f"{phase}_process_memory") for phase in ("inference", "training")),
        "**Process**: all that the process held: on the CPU its high-water mark, else as the driver tells it.",
    ),
    Group((BASE_MEMORY,), "**Empty worker**: the high-water mark of a process that has run one small convolution."),
)
ARITHMETIC = (
    Group(
        (FLOPS, _column("training_flops")),
        "**Forward**, **training**: arithmetic of one image, 2 FLOP a multiply-add; frozen layers cost less to train.",
    ),
    Group(
        (
            _share_of_peak("Inference (% of peak)", "flops", "inference_throughput"),
            _share_of_peak("Training (% of peak)", "training_flops", "train_throughput"),
            PEAK,
        ),
        "**% of peak**: arithmetic times images a second, over the peak measured on this machine: the faster of a "
        "matrix product and a convolution.",
    ),
    Group(
        (_column("inference_energy"), _column("training_energy")),
        "**J/image**: energy above what the idle device takes.",
    ),
    Group((_circumstance("idle_power"),), "**Idle**: power of the device with nothing running."),
)


_GROUPED = [column for group in (*LATENCIES, *STEP, *MEMORY, *ARITHMETIC) for column in group.columns]
ALL = tuple(dict.fromkeys((*COLUMNS, *SIZES, *_GROUPED)))
