"""Where the time of a step goes, as data: tables of operators and kernels, and the difference of two of them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import msgspec

from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import LONGEST_NAME, to_line, to_terminal

OTHERS = "(others)"

# A row that is a thousandth of the time is below what two profiles of the same step differ by.
_LEAST_SHARE = 0.001
_ROWS = 200
# Names of kernels are C++ templates of up to thousands of characters; both their ends say what they are.
_NAME_LENGTH = 120
_NAME_SHOWN = 60


@dataclass(frozen=True)
class Operator:
    """An operator in one module and phase; all numbers are of one step.

    Attributes:
        name: as the profiler writes it, such as `aten::addmm`; `(others)` is the sum of the small ones.
        module: dotted path of the innermost network module in which it ran; of a backward operator, that whose
            forward made it. Empty when there is none: the loss, adding up gradients, the optimiser.
        phase: `forward` (modules, and what else a backward pass went through), `backward`, or `other`.
        self_cpu_s: seconds on the CPU, without the operators that it calls.
        self_device_s: seconds of the kernels that it launched itself; they may run at the same time.
        flops: FLOP as the profiler estimates them from shapes: convolutions, matrix products, sums and products of
            elements, their backward only where it is made of these. None when unknown.
        bytes: net memory, allocated less freed, of the device, or of the CPU when that is the device. What an operator
            allocates through another (`aten::empty`) is in the other's row.
    """

    name: str
    module: str
    phase: Literal["forward", "backward", "other"]
    calls: float
    self_cpu_s: float
    self_device_s: float
    flops: float | None
    bytes: float

    @property
    def self_s(self) -> float:
        """Seconds on the CPU and on the device; these may overlap."""
        return self.self_cpu_s + self.self_device_s


@dataclass(frozen=True)
class Kernel:
    """A kernel, or a copy, on the device; all numbers are of one step.

    Attributes:
        name: of at most 120 characters, the middle cut out.
        operator: that launched it, in `module`; empty when the profiler does not say.
    """

    name: str
    operator: str
    module: str
    calls: float
    self_device_s: float

    @property
    def self_s(self) -> float:
        """Seconds on the device."""
        return self.self_device_s


@dataclass(frozen=True)
class Profile:
    """The tables of a profiled step.

    Attributes:
        operators: by self time, `(others)` last.
        kernels: by seconds, `(others)` last; empty on the CPU.
        device_idle: share of the recorded steps in which nothing ran on the device. The profiler slows down the host,
            not the device, so this is an upper bound. None on the CPU.
        steps: how many were recorded.
        step_s: seconds a step under the profiler, which is slower than without: never to be used as its time.
        trace: path of the trace, if there is one.
    """

    operators: tuple[Operator, ...]
    kernels: tuple[Kernel, ...]
    device_idle: float | None
    steps: int
    step_s: float
    trace: str | None
    trace_bytes: int | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """An operator in two profiles; self seconds, CPU and device, a step.

    Attributes:
        share: of the change of all operators together, so that all shares sum to 1: negative for one that changed
            against the sum. None when that sum is 0.
    """

    operator: str
    module: str
    phase: str
    before_s: float
    after_s: float
    change_s: float
    share: float | None


_Row = TypeVar("_Row", bound=Operator | Kernel)


def short(name: str, length: int = _NAME_LENGTH) -> str:
    """Cut the middle out of a long name.

    >>> short("void at::native::vectorized_elementwise_kernel<4, float>", 24)
    'void at::native…, float>'
    """
    if len(name) <= length:
        return name
    tail = length // 3
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def folded(rows: Iterable[_Row], least: float = _LEAST_SHARE, count: int = _ROWS) -> tuple[_Row, ...]:
    """Sort rows by self time and sum up those below a share of the total in one row, so that totals stay.

    `rows` are all operators, or all kernels, no two of the same name and place; the result has at most `count`.
    """
    ordered = sorted(rows, key=lambda row: (row.name == OTHERS, -row.self_s, row.name, row.module))
    smallest = least * math.fsum(row.self_s for row in ordered)
    large = sum(row.name != OTHERS and row.self_s >= smallest for row in ordered)
    if large < len(ordered) or large > count:
        large = min(large, count - 1)
    small = ordered[large:]
    return (*ordered[:large], _total(small)) if small else tuple(ordered)


def _total(rows: list[_Row]) -> _Row:
    texts = {"name": OTHERS, "phase": "other"}
    sums: dict[str, Any] = {}
    for name in (field.name for field in fields(rows[0])):
        values = [getattr(row, name) for row in rows]
        known = [value for value in values if value is not None]
        is_text = isinstance(values[0], str)
        sums[name] = texts.get(name, "") if is_text else math.fsum(known) if known else None
    return type(rows[0])(**sums)


def idle_share(windows: Iterable[tuple[float, float]], busy: Iterable[tuple[float, float]]) -> float:
    """Share of windows, disjoint starts and ends, in which nothing is busy.

    `busy` has starts and ends in the same unit, which may overlap and extend beyond the windows.
    """
    merged: list[tuple[float, float]] = []
    for start, end in sorted(busy):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    windows = list(windows)
    used = math.fsum(max(0.0, min(end, last) - max(start, first)) for first, last in windows for start, end in merged)
    # Rounding may make the parts a little longer than the whole.
    return max(0.0, 1 - used / math.fsum(last - first for first, last in windows))


def difference(before: Profile, after: Profile) -> list[Change]:
    """Compare the self times of two profiles, the largest change first.

    A row that one profile lacks counts as 0 seconds there: it did not run, or it is too small and in `(others)`.
    """
    seconds: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for place, profile in enumerate((before, after)):
        for row in profile.operators:
            seconds[row.name, row.module, row.phase][place] += row.self_s
    total = math.fsum(second - first for first, second in seconds.values())
    changes = [
        Change(*key, first, second, second - first, (second - first) / total if total else None)
        for key, (first, second) in seconds.items()
    ]
    return sorted(changes, key=lambda change: (-abs(change.change_s), change.operator, change.module, change.phase))


def top(profile: Profile, count: int) -> str:
    """A table of the `count` operators with the most self time, and one row for all others.

    Shares are of the self time of all operators, CPU and device.
    """
    from tabulate import tabulate

    total = math.fsum(row.self_s for row in profile.operators)
    columns: dict[str, Callable[[Operator], object]] = {
        "operator": lambda row: short(to_line(row.name), _NAME_SHOWN),
        "module": lambda row: to_line(row.module, LONGEST_NAME),
        "phase": lambda row: to_line(row.phase) if row.name != OTHERS else "",
        "calls": lambda row: f"{row.calls:.4g}",
        "self CPU ms": lambda row: f"{row.self_cpu_s * 1e3:.3f}",
        "self device ms": lambda row: f"{row.self_device_s * 1e3:.3f}",
        "share": lambda row: f"{row.self_s / total:.1%}" if total else None,
        "GFLOP": lambda row: None if row.flops is None else f"{row.flops / 1e9:.3f}",
        "MiB": lambda row: f"{row.bytes / 2**20:z.1f}",
    }
    if not any(row.self_device_s for row in profile.operators):
        del columns["self device ms"]
    rows = [[value(row) for value in columns.values()] for row in folded(profile.operators, least=0, count=count + 1)]
    align = ["left"] * 3 + ["right"] * (len(columns) - 3)
    return to_terminal(tabulate(rows, headers=list(columns), disable_numparse=True, missingval="—", colalign=align))


def from_dict(values: Mapping[str, Any]) -> Profile:
    """Read a profile back from its JSON, FashiontlError if it is damaged; keys of later versions are ignored."""
    try:
        # Older records call the warnings doubts.
        return msgspec.convert({"warnings": values.get("doubts", ()), **values}, Profile)
    except (msgspec.ValidationError, AttributeError) as error:
        raise FashiontlError(f"expected a profile, got one that is damaged: {error}; profile the case again") from error
