"""Whether a device can be measured on, and how small a difference can be detected there."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fashiontl.core.stats import smallest_difference
from fashiontl.doctor.findings import Line, Report, Section
from fashiontl.doctor.surroundings import conditions
from fashiontl.machine.conditions import Observer
from fashiontl.machine.devices import Device
from fashiontl.machine.locks import alone_on
from fashiontl.runner.cell import cache_folder
from fashiontl.runner.client import Outcome, Worker, why_unavailable
from fashiontl.runner.messages import DEVICE, NOISE, PEAK, DeviceJob, Noise, PeakJob, TimedJob
from fashiontl.timing.clock import clock_error, clock_ratio

Progress = Callable[[str], None]

# A side of a comparison, and also how many are timed here.
PROCESSES = 8
_TIMEOUT = 120.0
_PEAK_SECONDS = 1.0
# Of the smallest difference: up to the first it serves most changes of code, past the second none.
_FINE, _USELESS = 0.05, 0.5


def examine(worker: Worker, device: Device, progress: Progress, seconds: float = 0.3) -> Report:
    """Examine a device while no case runs on it; each process of the noise floor is timed for so many seconds."""
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
        timed = []
        for index in range(PROCESSES):
            progress(f"noise floor, process {index + 1} of {PROCESSES}")
            timed.append(worker.run(NOISE, TimedJob(name, seconds=seconds), _TIMEOUT))
        floor, noise_section = _noise(timed)
        observed = observer.end()
    facts, error, difference = found.found().facts, clock_error(clock) or "", floor["smallest_difference"] or 0.0
    here = (
        Line("here", "yes"),
        *(Line(key, value) for key, value in facts.items() if value is not None),
        Line("clock against another", f"{clock:.4f}", "bad" if error else "ok", error),
    )
    surroundings = Section("conditions", conditions(device, observed))
    sections = (Section(f"device {name}", here), peak_section, noise_section, surroundings)
    errors = [line.advice for section in sections for line in section.lines if line.verdict == "bad"]
    if errors:
        summary = f"This box cannot measure on {name}: {'; '.join(errors)}."
    else:
        summary = (
            f"This box can measure on {name}: differences of about {_percent(difference)} can be told apart with "
            f"{PROCESSES} processes a side."
        )
    conditions_facts = msgspec.to_builtins(observed._asdict())
    raw = {"device": facts, "clock": clock, "peak": peaks, "noise": floor, "conditions": conditions_facts}
    return Report(name, not errors, summary, sections, raw)


def noise_floor(medians: Sequence[float]) -> dict[str, float | None]:
    """How much processes differ, given a median each, and which difference two sets of `PROCESSES` can detect.

    Returns:
        `deviation`, the standard deviation of the medians' logarithms; and `smallest_difference`, relative, at 95 %
        confidence and 80 % power. None where fewer than two are known.
    """
    if len(medians) < 2:
        return {"deviation": None, "smallest_difference": None}
    deviation = statistics.stdev(math.log(median) for median in medians)
    return {"deviation": deviation, "smallest_difference": math.expm1(smallest_difference(deviation, PROCESSES))}


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


def _noise(outcomes: Sequence[Outcome[Noise]]) -> tuple[dict[str, Any], Section]:
    known = [outcome.result for outcome in outcomes if outcome.result and outcome.result.median]
    medians = [noise.median for noise in known if noise.median]
    widths = [noise.half_width for noise in known if noise.half_width is not None]
    floor = noise_floor(medians)
    facts = {**floor, "processes": PROCESSES, "medians": medians, "half_widths": widths}
    if len(known) == PROCESSES:
        lines = [Line("processes", f"{PROCESSES} of {PROCESSES} timed")]
    else:
        reasons = dict.fromkeys(outcome.reason for outcome in outcomes if outcome.status != "ok")
        reason = "; ".join(reasons) or "every sample was taken while the machine was throttled"
        lines = [Line("processes", f"{len(known)} of {PROCESSES} timed", "bad", f"processes were not timed: {reason}")]
    deviation, difference = floor["deviation"], floor["smallest_difference"]
    if deviation is not None and difference is not None:
        steady = [noise.steady for noise in known]
        unsteady = "" if all(steady) else "elsewhere steps got faster or slower, or jumped, until the time was up"
        within = _percent(statistics.median(widths)) if widths else "unknown"
        lines += [
            Line("a small training step", f"{statistics.median(medians) * 1e3:.3g} ms"),
            Line("steady", f"{sum(steady)} of {len(steady)} processes", "note" if unsteady else "ok", unsteady),
            Line("between processes", _percent(deviation), advice="standard deviation of their medians"),
            Line("within a process", within, advice="half of the 95 % interval of a median, as ± in tables"),
            _difference(difference),
        ]
    return facts, Section("noise floor", tuple(lines))


def _difference(difference: float) -> Line:
    name, value = "smallest difference", f"{_percent(difference)} with {PROCESSES} processes a side"
    if difference > _USELESS:
        reason = f"the same step differs so much between processes that only {_percent(difference)} would show"
        return Line(name, value, "bad", f"{reason}; end other work")
    if difference > _FINE:
        return Line(name, value, "note", "end other work, fix the clocks, or time more processes a side")
    return Line(name, value, advice="95 % confidence, 80 % power")


def _percent(share: float) -> str:
    """A share in per cent, with two digits or three.

    >>> _percent(0.0234), _percent(0.00456), _percent(12.3)
    ('2.3 %', '0.46 %', '1230 %')
    """
    return f"{share * 100:.{2 if share < 0.01 else 1 if share < 0.1 else 0}f} %"
