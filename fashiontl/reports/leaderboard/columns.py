"""Columns of numbers: what each shows of a record's raw values, and in which tables they stand together."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from fashiontl.core.metrics import METRICS, Better, Measurement, Metric
from fashiontl.core.stats import Interval, accuracy_interval, median_interval, percentile_interval

# Each by its metric's name, with one value or more.
Measured = Mapping[str, Measurement]

# Two of 20 values lie beyond a 90th percentile and ten of 1,000 beyond a 99th; from fewer either is little more than
# the maximum.
_FEWEST = {90: 20, 99: 1000}

_STEP_PARTS = ("step_data_time", "step_forward_time", "step_backward_time", "step_optimizer_time")


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        label: header, with the unit; no two columns share one.
        metric: how the number is shown and which way is better.
        statistic: the number and its interval in the metric's base unit; None is unknown.
        needs: a metric without which it is unknown.
        is_median: whether it is the median of that metric.
    """

    label: str
    metric: Metric
    statistic: Callable[[Measured], Interval | None]
    needs: str
    is_median: bool = False


@dataclass(frozen=True)
class Group:
    """Columns that stand side by side and are explained together.

    Attributes:
        columns: from the left.
        legend: what they are, in one line of Markdown.
    """

    columns: tuple[Column, ...]
    legend: str


# Test images are few, so that the same counts of them come again and again.
accuracy_of = functools.lru_cache(maxsize=2**14)(accuracy_interval)


def _median(name: str) -> Callable[[Measured], Interval | None]:
    return lambda measured: median_interval(measured[name].values) if name in measured else None


def _column(name: str, statistic: Callable[[Measured], Interval | None] | None = None, label: str = "") -> Column:
    return Column(
        label or METRICS[name].label, METRICS[name], statistic or _median(name), name, is_median=statistic is None
    )


def _circumstance(name: str) -> Column:
    """Of the machine and not of the network, so that none is best; nor is there any where it is 0."""

    def statistic(measured: Measured) -> Interval | None:
        found = _median(name)(measured)
        return found if found and found.estimate else None

    return Column(METRICS[name].label, replace(METRICS[name], better="equal"), statistic, name)


def _accuracy(measured: Measured) -> Interval | None:
    found = measured.get("accuracy")
    return accuracy_of(found.values, found.trials) if found else None


def _latency_percentile(q: int) -> Column:
    def statistic(measured: Measured) -> Interval | None:
        values = measured["latency"].values if "latency" in measured else ()
        return percentile_interval(values, q) if len(values) >= _FEWEST[q] else None

    return _column("latency", statistic, f"Latency p{q} (ms)")


def waiting_share(measured: Measured) -> Interval | None:
    """The share of a step's time that goes into its data, as the median over the steps that were timed.

    The parts of one step were timed together, so each step has a share of its own and the median an interval.
    """
    parts = [measured[name].values for name in _STEP_PARTS if name in measured]
    if len(parts) < len(_STEP_PARTS) or len(set(map(len, parts))) > 1:
        return None
    shares = [step[0] / sum(step) for step in zip(*parts, strict=True) if sum(step) > 0]
    return median_interval(shares) if shares else None


def _share_of_peak(arithmetic: str, throughput: str) -> Callable[[Measured], Interval | None]:
    """FLOP an image times images a second, over the peak in FLOP/s; its interval is the throughput's."""

    def statistic(measured: Measured) -> Interval | None:
        if not {arithmetic, throughput, "peak_flops"} <= measured.keys():
            return None
        flops, peak = median(measured[arithmetic].values), median(measured["peak_flops"].values)
        pace = median_interval(measured[throughput].values)
        if flops <= 0 or peak <= 0 or not math.isfinite(pace.estimate * flops / peak):
            return None
        return Interval(*(bound * flops / peak for bound in (pace.estimate, pace.low, pace.high)))

    return statistic


def _fraction(label: str, better: Better, statistic: Callable[[Measured], Interval | None], needs: str) -> Column:
    """A number that is derived from several metrics, shown in per cent."""
    return Column(label, Metric(label, "1", better, label, 100.0), statistic, needs)


ACCURACY = _column("accuracy", _accuracy)
TRAINING = _column("train_throughput")
INFERENCE = _column("inference_throughput")
LATENCY = _column("latency", label="Latency p50 (ms)")
P90, P99 = _latency_percentile(90), _latency_percentile(99)
TRAINING_MEMORY = _column("training_peak_memory")
INFERENCE_MEMORY = _column("inference_peak_memory")
FLOPS = _column("flops")
PEAK = _column("peak_flops")
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
        (_column("load_peak_memory"), INFERENCE_MEMORY, TRAINING_MEMORY),
        "**Peak**: on the CPU the process's high-water mark less the empty worker's; else the most that torch held.",
    ),
    Group(
        tuple(_column(f"{phase}_reserved_memory") for phase in ("load", "inference", "training")),
        "**Reserved**: what torch's allocator took from the device at most.",
    ),
    Group(
        tuple(_column(f"{phase}_process_memory") for phase in ("load", "inference", "training")),
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
            _fraction("Inference (% of peak)", "higher", _share_of_peak("flops", "inference_throughput"), "flops"),
            _fraction(
                "Training (% of peak)", "higher", _share_of_peak("training_flops", "train_throughput"), "training_flops"
            ),
        ),
        "**% of peak**: arithmetic times images a second, over the peak measured on this machine.",
    ),
    Group(
        (_column("inference_energy"), _column("training_energy")),
        "**J/image**: energy above what the idle device takes.",
    ),
    Group((_circumstance("idle_power"),), "**Idle**: power of the device with nothing running."),
)


def columns_of(groups: Sequence[Group]) -> tuple[Column, ...]:
    """The columns of groups, from the left."""
    return tuple(column for group in groups for column in group.columns)


ALL = tuple(dict.fromkeys((*COLUMNS, *SIZES, PEAK, *columns_of((*LATENCIES, *STEP, *MEMORY, *ARITHMETIC)))))
