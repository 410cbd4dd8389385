import itertools

import pytest

from fashiontl.timing.clock import clock_error, clock_ratio


def test_two_clocks_of_this_machine_agree() -> None:
    assert clock_error(clock_ratio()) is None


@pytest.mark.parametrize(("speed", "passes"), [(1.0, True), (0.992, True), (1.02, False), (1000.0, False)])
def test_a_clock_that_is_fast_or_slow_is_found(speed: float, passes: bool) -> None:
    ticks = itertools.count()

    def now() -> float:
        return next(ticks) * 1e-5

    ratio = clock_ratio(lambda: speed * now(), now)
    assert ratio == pytest.approx(speed, rel=2e-3)
    error = clock_error(ratio)
    assert (error is None) is passes
    assert error is None or "of the speed of another clock" in error
