"""Energy in a made-up world, where clock, power and counters are exact."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiontl.machine import energy
from fashiontl.machine.energy import Energy, EnergyCounter, Rapl, measure_energy, rapl_counter


class World:
    """A device that takes `idle` watts, `busy` ones during a call, with a counter that moves every `period` seconds."""

    def __init__(self, *, idle: float, busy: float, call: float, period: float = 0.0) -> None:
        self.idle, self.busy, self.call_seconds, self.period = idle, busy, call, period
        self.now = 0.0
        self.edges = [(0.0, 0.0)]
        self.waits = 0
        self.events: list[str] = []

    def _pass(self, seconds: float, watts: float) -> None:
        self.now += seconds
        self.edges.append((self.now, self.edges[-1][1] + seconds * watts))

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self._pass(seconds, self.idle)
        self.events.append("sleep")

    def call(self) -> None:
        self._pass(self.call_seconds, self.busy)
        self.events.append("call")

    def synchronize(self) -> None:
        self.waits += 1
        self.events.append("wait")

    def joules(self) -> float:
        when = self.now if not self.period else math.floor(self.now / self.period + 1e-9) * self.period
        for (start, low), (end, high) in zip(self.edges, self.edges[1:], strict=False):
            if start <= when <= end and end > start:
                return low + (high - low) * (when - start) / (end - start)
        return self.edges[-1][1]

    def measure(self, images: int = 8, seconds: float = 1.0, read: Callable[[], float | None] | None = None) -> Energy:
        return measure_energy(
            self.call, images, EnergyCounter("counter", read or self.joules), self.synchronize,
            seconds=seconds, clock=self.clock, sleep=self.sleep,
        )  # fmt: skip


def test_net_of_idle() -> None:
    world = World(idle=50, busy=250, call=0.1)
    found = world.measure(images=8, seconds=2)
    calls = world.events.count("call")
    # 200 W above idle for 0.1 s, for 8 images.
    assert found.joules == pytest.approx(2.5, rel=1e-9)
    assert found.idle_watts == pytest.approx(50, rel=1e-9)
    assert found.images == 8 * calls == 8 * 20
    # One poll of 1 ms finds the counter moved.
    assert found.seconds == pytest.approx(2.001, rel=1e-9)
    assert found.gross_watts == pytest.approx((2.0 * 250 + 0.001 * 50) / 2.001, rel=1e-9)
    assert found.warnings == ()
    assert found.source == "counter"


@pytest.mark.parametrize("period", [0.02, 0.1])
def test_a_slow_counter_costs_no_accuracy(period: float) -> None:
    """Windows that began anywhere would be wrong by up to a period in 0.5 s."""
    found = World(idle=60, busy=400, call=0.013, period=period).measure(images=1)
    assert found.idle_watts == pytest.approx(60, rel=0.01)
    assert found.joules == pytest.approx(340 * 0.013, rel=0.005)


@pytest.mark.parametrize(("asked", "least"), [(0.0, 1.0), (0.2, 1.0), (3.0, 3.0)])
def test_a_window_is_never_short(asked: float, least: float) -> None:
    found = World(idle=50, busy=250, call=0.01).measure(seconds=asked)
    assert least <= found.seconds < least + 0.2


def test_small_calls_are_waited_for_together() -> None:
    world = World(idle=50, busy=250, call=0.0001)
    found = world.measure(images=1)
    calls = world.events.count("call")
    assert found.joules == pytest.approx(200 * 0.0001, rel=1e-6)
    assert calls >= 10_000
    assert world.waits < 40


def test_no_more_than_idle_is_unknown() -> None:
    found = World(idle=50, busy=49, call=0.1).measure()
    assert (found.joules, found.idle_watts, found.gross_watts) == (None, pytest.approx(50), pytest.approx(49, rel=1e-3))
    assert found.warnings == ("work took 49 W, which is not above the 50 W of the idle device",)


@pytest.mark.parametrize(
    ("joules", "warning"),
    [(7.0, "counter did not move in 0.7 s idle or in 1.2 s of work"), (None, "counter could not be read")],
)
def test_a_counter_that_stands_still_or_fails_is_unknown(joules: float | None, warning: str) -> None:
    found = World(idle=50, busy=250, call=0.1).measure(read=lambda: joules)
    assert (found.joules, found.idle_watts, found.gross_watts, found.warnings) == (None, None, None, (warning,))


@settings(max_examples=30)
@given(
    idle=st.floats(1, 500), above=st.floats(1, 1000), call=st.floats(0.001, 2), images=st.integers(1, 512),
    period=st.sampled_from([0.0, 0.001]),
)  # fmt: skip
def test_joules_an_image(idle: float, above: float, call: float, images: int, period: float) -> None:
    found = World(idle=idle, busy=idle + above, call=call, period=period).measure(images=images)
    assert found.joules is not None
    # The idle window is an idle-power reading to within a poll of the counter's period.
    assert found.joules == pytest.approx(above * call / images, rel=1e-6 + (idle / above * 0.01 if period else 0))


# RAPL


def zone(powercap: Path, folder: str, name: str, microjoules: int, most: int = 1000) -> Path:
    path = powercap / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    return path


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = 2**38
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000, big)
    zone(tmp_path, "intel-rapl:0:0", "core", 1, big)
    zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000, big)
    zone(tmp_path, "intel-rapl:2", "psys", 1, big)
    (tmp_path / "intel-rapl:3").mkdir()
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    found = rapl_counter()
    assert found is not None
    assert found.source == "RAPL packages"
    assert found.read() == 0
    for folder, name, value in [
        ("intel-rapl:0", "package-0", 6_500_000), ("intel-rapl:0:0", "core", 900_000_000),
        ("intel-rapl:1", "package-1", 7_250_000), ("intel-rapl:2", "psys", 900_000_000),
    ]:  # fmt: skip
        zone(tmp_path, folder, name, value, big)
    assert found.read() == 1.75


def test_no_zones_no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path / "absent")
    assert rapl_counter() is None


def test_one_unreadable_package_makes_the_sum_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (zone(tmp_path, "intel-rapl:1", "package-1", 1) / "energy_uj").unlink()
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    assert rapl_counter() is None


@settings(max_examples=30)
@given(st.integers(2, 10**12), st.data())
def test_overflow_loses_nothing(tmp_path_factory: pytest.TempPathFactory, most: int, data: st.DataObject) -> None:
    """Whatever is used between reads, up to one round of the counter, is in the sum."""
    folder = tmp_path_factory.mktemp("rapl")
    value = data.draw(st.integers(0, most - 1))
    used = data.draw(st.lists(st.integers(0, most - 1), max_size=6))
    rapl = Rapl([zone(folder, "zone", "package-0", value, most)])
    assert rapl.joules() == 0
    for total, step in zip((sum(used[: n + 1]) for n in range(len(used))), used, strict=True):
        value = (value + step) % most
        zone(folder, "zone", "package-0", value, most)
        assert rapl.joules() == pytest.approx(total / 1e6, abs=1e-9)
