"""Joules an image, from counters of energy that the hardware keeps. No torch: what is measured is a function."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiontl.machine.environment import text_of

_POWERCAP = Path("/sys/class/powercap")

# NVML's counter moves every 20 to 100 ms, depending on the GPU, and RAPL's every millisecond. Yang et al., "Part-time
# power measurements" (SC 2024, arXiv:2312.02741), find windows near that period to be off by tens of per cent.
_IDLE_SECONDS = 0.5
_LEAST_SECONDS = 1.0
# The counter is taken where it moves, so that no window begins or ends within a period. The wait for it ends here.
_LONGEST_PERIOD = 0.2
_POLL_SECONDS = 0.001
_RUN_SECONDS = 0.05


@dataclass(frozen=True)
class EnergyCounter:
    """A counter of energy that only rises: its name for the record, and joules since some moment (None is unknown)."""

    source: str
    read: Callable[[], float | None]


@dataclass(frozen=True)
class Energy:
    """Energy of a workload, and how it was measured; None is unknown.

    Attributes:
        joules: an image, above what the device takes when it is idle.
        idle_watts: before the workload, with the process and its memory on the device and nothing running.
        gross_watts: mean over the window, idle power included.
        seconds: length of the window.
        images: processed in it.
        source: of the counter.
    """

    joules: float | None
    idle_watts: float | None
    gross_watts: float | None
    seconds: float
    images: int
    source: str
    warnings: tuple[str, ...] = ()


def rapl_counter() -> EnergyCounter | None:
    """The sum of RAPL's `package` zones, memory modules excluded; None where there are none, or they cannot be read.

    Since CVE-2020-8694 only root may read them, unless the machine's owner allows it. AMD's have Intel's name too.
    """
    # Not their parts (`core`, `uncore`, `dram`), and not `psys`, which contains the packages.
    zones = [each for each in _POWERCAP.glob("intel-rapl:*") if (text_of(each / "name") or "").startswith("package-")]
    counter = EnergyCounter("RAPL packages", Rapl(zones).joules)
    return counter if zones and counter.read() is not None else None


class Rapl:
    """Sum of the CPU packages' energy, carried past the counters' overflow.

    Two reads must not be further apart than one counter takes to overflow: minutes at full power. Zones are folders
    with `energy_uj` and `max_energy_range_uj`, in microjoules (kernel documentation, powercap).
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = zones
        self._last: list[int] | None = None
        self._microjoules = 0

    def joules(self) -> float | None:
        """Energy since the first read; None when any package cannot be read."""
        try:
            now = [int((zone / "energy_uj").read_text()) for zone in self._zones]
            ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
        except (OSError, ValueError):
            return None
        if self._last is not None:
            steps = zip(now, self._last, ranges, strict=True)
            self._microjoules += sum((new - old) % most for new, old, most in steps)
        self._last = now
        return self._microjoules / 1e6


def measure_energy(
    call: Callable[[], object],
    images_a_call: int,
    counter: EnergyCounter,
    synchronize: Callable[[], None],
    *,
    seconds: float = _LEAST_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Energy that calls take above idle: first the idle power, then the calls, both between movements of the counter.

    The moment between the last call and the counter's next movement is idle, so it adds nothing to the net energy. The
    calls are warm, and take at least `seconds`, or 1 s if that is longer.
    """
    synchronize()
    before, idle_start = _at_movement(counter, clock, sleep)
    sleep(_IDLE_SECONDS)
    start_joules, start = _at_movement(counter, clock, sleep)
    calls, run, now = 0, 1, start
    while now - start < max(seconds, _LEAST_SECONDS):
        # Waiting after every call would idle a device between small ones; never waiting fills its queue past the end.
        run_start = now
        for _ in range(run):
            call()
        synchronize()
        calls, now = calls + run, clock()
        run *= 2 if now - run_start < _RUN_SECONDS else 1
    end_joules, end = _at_movement(counter, clock, sleep)

    images, window, source = calls * images_a_call, end - start, counter.source
    if before is None or start_joules is None or end_joules is None:
        return Energy(None, None, None, window, images, source, (f"{source} could not be read",))
    idle, gross = start_joules - before, end_joules - start_joules
    if idle <= 0 or gross <= 0:
        warning = f"{source} did not move in {start - idle_start:.1f} s idle or in {window:.1f} s of work"
        return Energy(None, None, None, window, images, source, (warning,))
    idle_watts, gross_watts = idle / (start - idle_start), gross / window
    if gross_watts <= idle_watts:
        warning = f"work took {gross_watts:.3g} W, which is not above the {idle_watts:.3g} W of the idle device"
        return Energy(None, idle_watts, gross_watts, window, images, source, (warning,))
    return Energy((gross - idle_watts * window) / images, idle_watts, gross_watts, window, images, source)


def _at_movement(
    counter: EnergyCounter, clock: Callable[[], float], sleep: Callable[[float], None]
) -> tuple[float | None, float]:
    """Joules and the clock as the counter next moves; as they are after its longest period if it does not."""
    first, deadline = counter.read(), clock() + _LONGEST_PERIOD
    while True:
        sleep(_POLL_SECONDS)
        joules, now = counter.read(), clock()
        if joules != first or now >= deadline:
            return joules, now
