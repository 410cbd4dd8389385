"""From the profiler's events to tables: each operator, with its module and phase, and the kernels it launched."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from fashiontl.profiling.operators import Kernel, Operator, idle_share, short

# Of the names of ranges that say which module of a network runs.
MODULE_PREFIX = "fashiontl.module: "

# at::RecordScope, as FunctionEvent.scope has it.
_BACKWARD_FUNCTION, _USER_SCOPE = 1, 7
_ENGINE = "autograd::engine::evaluate_function"
_STEP = "ProfilerStep"
_PER_SECOND = 1e6

# Autograd numbers its nodes in each thread; a node's backward bears the number and the thread of its forward.
_Node: TypeAlias = tuple[int, int]


class Place(NamedTuple):
    """Where an event happened: the module's dotted path, empty for none, and the phase."""

    module: str
    phase: Literal["forward", "backward", "other"]


_NOWHERE = Place("", "other")


class Tables(NamedTuple):
    """Tables of one step, not folded; `device_idle` is None when nothing ran on a device."""

    operators: list[Operator]
    kernels: list[Kernel]
    device_idle: float | None
    step_s: float


def tables(events: Iterable[FunctionEvent], steps: int) -> Tables:
    """Read the events of `torch.profiler.profile`, which recorded so many steps; times are in microseconds."""
    events = sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end))
    host = [event for event in events if event.device_type == DeviceType.CPU and not event.is_async]
    windows = [event.time_range for event in host if event.name.startswith(_STEP)]
    # A range on the host has a counterpart on the device, from the first to the last of its kernels.
    ranges = {event.name for event in events if _is_annotation(event) or event.name.startswith(_STEP)}
    device = [event for event in events if event.device_type != DeviceType.CPU and event.name not in ranges]
    shown = [
        (event, place)
        for event, place in zip(host, _places(host), strict=True)
        if not event.name.startswith((MODULE_PREFIX, _STEP))
    ]
    busy = [(event.time_range.start, event.time_range.end) for event in device]
    idle = idle_share([(window.start, window.end) for window in windows], busy) if device else None
    seconds = sum(window.end - window.start for window in windows) / _PER_SECOND
    return Tables(_operators(shown, bool(device), steps), _kernels(shown, device, steps), idle, seconds / steps)


def _is_annotation(event: FunctionEvent) -> bool:
    return bool(event.is_user_annotation) or event.scope == _USER_SCOPE


def _launched(event: FunctionEvent) -> list[tuple[str, float]]:
    """Names and microseconds of the kernels that an operator launched itself."""
    own = {event.name} if _is_annotation(event) else set()
    return [(kernel.name, kernel.duration) for kernel in event.kernels if kernel.name not in own]


def _backward_node(event: FunctionEvent) -> _Node | None:
    """The node whose backward this event is; None for any other event."""
    if event.scope != _BACKWARD_FUNCTION and not event.name.startswith(_ENGINE):
        return None
    if event.sequence_nr < 0:
        numbered = [child for child in event.cpu_children if child.scope == _BACKWARD_FUNCTION]
        event = numbered[0] if numbered else event
    return event.sequence_nr, -1 if event.fwd_thread is None else event.fwd_thread


def _places(host: Sequence[FunctionEvent]) -> list[Place]:
    """Places of events on the CPU that are in order of their start, so that parents and forwards come first."""
    nodes = [_backward_node(event) for event in host]
    # Every operator that autograd sees bears the number of the next node, and the last to bear it made the node.
    makers: dict[_Node, FunctionEvent] = {
        (event.sequence_nr, event.thread): event
        for event, node in zip(host, nodes, strict=True)
        if node is None and event.sequence_nr >= 0
    }
    # Outside modules, what a backward pass went through was forward: the loss.
    forward = set()
    for maker in (makers.get(node) for node in nodes if node is not None):
        event: FunctionEvent | None = maker
        while event is not None and not _is_annotation(event):
            forward.add(id(event))
            event = event.cpu_parent
    places: dict[int, Place] = {}
    for event, node in zip(host, nodes, strict=True):
        around = _NOWHERE if event.cpu_parent is None else places.get(id(event.cpu_parent), _NOWHERE)
        if event.name.startswith(MODULE_PREFIX):
            phase: Literal["forward", "backward"] = "backward" if around.phase == "backward" else "forward"
            places[id(event)] = Place(event.name.removeprefix(MODULE_PREFIX), phase)
        elif node is not None:
            made = makers.get(node)
            places[id(event)] = Place(places[id(made)].module if made is not None else around.module, "backward")
        elif around.phase == "other" and id(event) in forward:
            places[id(event)] = Place(around.module, "forward")
        else:
            places[id(event)] = around
    return [places[id(event)] for event in host]


def _operators(shown: Sequence[tuple[FunctionEvent, Place]], on_device: bool, steps: int) -> list[Operator]:
    totals: dict[tuple[str, Place], list[float]] = defaultdict(lambda: [0.0] * 4)
    flops: dict[tuple[str, Place], float] = defaultdict(float)
    for event, place in shown:
        total = totals[short(event.name), place]
        total[0] += 1
        total[1] += event.self_cpu_time_total / _PER_SECOND
        total[2] += sum(duration for _, duration in _launched(event)) / _PER_SECOND
        total[3] += event.self_device_memory_usage if on_device else event.self_cpu_memory_usage
        if event.flops:
            spender = _innermost_convolution(event)
            flops[short(spender.name), place] += event.flops
    return [
        Operator(
            name,
            place.module,
            place.phase,
            calls / steps,
            cpu / steps,
            device / steps,
            flops[name, place] / steps if (name, place) in flops else None,
            size / steps,
        )
        for (name, place), (calls, cpu, device, size) in totals.items()
    ]


def _innermost_convolution(event: FunctionEvent) -> FunctionEvent:
    """The operator that spends the time: the profiler counts at aten::conv2d what aten::cudnn_convolution does."""
    while inner := [child for child in event.cpu_children if child.name.startswith("aten::") and "conv" in child.name]:
        event = inner[0]
    return event


def _kernels(shown: Sequence[tuple[FunctionEvent, Place]], device: Sequence[FunctionEvent], steps: int) -> list[Kernel]:
    totals: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    # Without events on the device, what an operator launched is a time between two events and no kernel.
    for event, place in shown if device else ():
        for name, duration in _launched(event):
            for key, sign in (((name, short(event.name), place.module), 1), ((name, "", ""), -1)):
                totals[key][0] += sign
                totals[key][1] += sign * duration
    for event in device:
        totals[event.name, "", ""][0] += 1
        totals[event.name, "", ""][1] += event.time_range.end - event.time_range.start
    return [
        Kernel(short(name), operator, module, calls / steps, duration / _PER_SECOND / steps)
        for (name, operator, module), (calls, duration) in totals.items()
        if calls > 0
    ]
