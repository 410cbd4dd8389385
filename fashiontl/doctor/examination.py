"""Whether a device can be measured on, and how small a difference can be detected there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from fashiontl.doctor import detection
from fashiontl.doctor.findings import Line, Report, Section
from fashiontl.doctor.surroundings import conditions
from fashiontl.machine.conditions import Observer
from fashiontl.machine.devices import Device
from fashiontl.machine.locks import alone_on
from fashiontl.runner.cell import cache_folder
from fashiontl.runner.client import Worker, why_unavailable
from fashiontl.runner.messages import DEVICE, PEAK, DeviceJob, PeakJob
from fashiontl.timing.clock import clock_error, clock_ratio

Progress = Callable[[str], None]

# About a minute of two networks, each against itself.
PROCESSES = 4
_TIMEOUT = 120.0
_PEAK_SECONDS = 1.0


def examine(
    worker: Worker,
    device: Device,
    progress: Progress,
    processes: int = PROCESSES,
    servers: Callable[[int], AbstractContextManager[Worker]] = lambda process: Worker(),
) -> Report:
    """Examine a device while no case runs on it.

    Args:
        worker: for what is asked once.
        device: which need not be here.
        progress: is told what is going on.
        processes: of each side of a network that is timed against itself.
        servers: makes the server of each of them, by its number.
    """
    name = device.name
    progress(f"waiting for {name}")
    with alone_on(device, cache_folder()):
        observer = Observer(device)
        observer.begin()
        found = worker.run(DEVICE, DeviceJob(name), _TIMEOUT, progress)
        if reason := why_unavailable(found):
            return Report(name, False, f"This box cannot measure on {name}: {reason}.")
        clock = clock_ratio()
        peaks, peak_section = _peaks(worker, device, progress)
        sides, failed = detection.measure(device, servers, processes, progress)
        observed = observer.end()
    differences, detection_section, shown = detection.section(sides, failed)
    facts, error = found.found().facts, clock_error(clock) or ""
    here = (
        Line("here", "yes"),
        *(Line(key, value) for key, value in facts.items() if value is not None),
        Line("clock against another", f"{clock:.4f}", "bad" if error else "ok", error),
    )
    surroundings = Section("conditions", conditions(device, observed))
    sections = (Section(f"device {name}", here), peak_section, detection_section, surroundings)
    errors = [line.advice for section in sections for line in section.lines if line.verdict == "bad"]
    if errors:
        summary = f"This box cannot measure on {name}: {'; '.join(errors)}."
    else:
        summary = f"This box can measure on {name}: {shown}."
    conditions_facts = msgspec.to_builtins(observed._asdict())
    raw = {"device": facts, "clock": clock, "peak": peaks, "differences": differences, "conditions": conditions_facts}
    return Report(name, not errors, summary, sections, raw)


def _peaks(worker: Worker, device: Device, progress: Progress) -> tuple[dict[str, Any], Section]:
    precisions = ("fp32", "tf32", "bf16", "fp16") if device.kind == "cuda" else ("fp32", "bf16")
    peaks, lines = {}, []
    for precision in precisions:
        outcome = worker.run(PEAK, PeakJob(device.name, precision=precision, seconds=_PEAK_SECONDS), _TIMEOUT, progress)
        if not outcome.result:
            lines.append(Line(precision, "unknown", "note", outcome.reason or "too little memory"))
            continue
        peaks[precision] = outcome.result
        rates = [f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in outcome.result.items()]
        lines.append(Line(precision, ", ".join(rates)))
    return peaks, Section("arithmetic peak, measured", tuple(lines))
