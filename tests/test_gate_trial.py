"""The turns of one trial: their order, and when there are enough."""

from itertools import cycle

import pytest

from fashiontl.gate import trial
from fashiontl.gate.raw import Arm, Trial
from fashiontl.gate.trial import reference_kernel, take_trial


class Turns:
    """A process whose slices take the seconds that are given, again and again."""

    def __init__(self, name: str, seconds: list[float], log: list[str], steady: bool = True) -> None:
        self._name, self._seconds, self._log, self._steady = name, cycle(seconds), log, steady

    def warm(self, metric: str) -> bool:
        self._log.append(f"{self._name} warm {metric}")
        return self._steady

    def slice(self, metric: str) -> tuple[float, bool]:
        assert metric == "latency"
        self._log.append(self._name)
        return next(self._seconds), False


def both(base: list[float], head: list[float], log: list[str]) -> dict[Arm, Turns]:
    return {"base": Turns("base", base, log), "head": Turns("head", head, log, steady=False)}


def taken(base: list[float], head: list[float]) -> Trial:
    return take_trial(both(base, head, []), "latency", "screen", "base", lambda: 1.0)[0]


def test_turns_go_abba_and_six_rounds_are_enough_when_they_agree() -> None:
    log: list[str] = []
    made, steady, throttled = take_trial(both([0.01], [0.011], log), "latency", "screen", "head", lambda: 0.002)
    assert log == ["head warm latency", "base warm latency", *["head", "base", "base", "head"] * 6]
    assert (steady, throttled) == (False, 0)
    assert made.base == (0.01,) * 12
    assert made.head == (0.011,) * 12
    assert made.reference_base == made.reference_head == (0.002,) * 12


def test_rounds_that_differ_by_chance_are_followed_by_more() -> None:
    """Rounds change by +3 and -3 %: the standard error of 6 is 1.3 %, and of the most, 16, still 0.77 %."""
    log: list[str] = []
    noisy, _, _ = take_trial(
        both([0.01], [0.0103, 0.0103, 0.0097, 0.0097], log), "latency", "screen", "base", lambda: 1.0
    )
    assert len(noisy.base) == len(noisy.head) == len(noisy.reference_head) == 32


def test_rounds_end_once_they_are_precise() -> None:
    """At +-1.5 % the standard error of 8 rounds is 0.57 %, of 10 0.50 % and of 11 0.48 %."""
    assert len(taken([1.0], [1.015, 1.015, 0.985, 0.985]).head) == 2 * 11


def test_what_the_other_arm_leaves_in_the_caches_calls_for_no_more_rounds() -> None:
    """The second turn of two in a row is 20 % faster, in both arms alike."""
    assert len(taken([1.0, 1.2], [1.2, 1.0]).base) == 12


def test_the_first_pass_of_the_reference_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(trial, "_work", lambda: done.append("work"))

    def clock() -> float:
        done.append("clock")
        return 0.5 * len(done)

    assert reference_kernel(clock) == 0.5 * (len(done) - 2)
    assert done == ["work", "clock", *["work"] * 6, "clock"]


def test_the_reference_kernel_copies_what_it_says() -> None:
    trial._COPY[:] = bytes(len(trial._COPY))
    assert reference_kernel() > 0
    assert trial._COPY == trial._COPIED
