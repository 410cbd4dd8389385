"""What a gate is asked to measure, as its file states it. No torch."""

from collections.abc import Sequence
from dataclasses import asdict

from fashiontl.core.case import Settings
from fashiontl.gate.epoch import LEAST_ROUNDS
from fashiontl.gate.limits import LIMITS, processes_of
from fashiontl.gate.raw import Asked
from fashiontl.gate.sequential import thresholds

TIMED = tuple(limit.metric for limit in LIMITS.values() if limit.kind == "timed")
COUNTED = tuple(limit.metric for limit in LIMITS.values() if limit.kind in {"exact", "size"})


def seeds_of(settings: Settings) -> int:
    """Seeds that are trained where the first one's answers differ."""
    return max(settings.seeds, LIMITS["accuracy"].repeats)


def stated(
    cells: Sequence[str],
    settings: Settings,
    commits: tuple[str | None, str | None],
    *,
    timed: Sequence[str] = (),
    accuracy: bool = False,
) -> Asked:
    """The statement.

    Args:
        cells: ids of all that are asked for.
        settings: of both arms.
        commits: of the base and the head.
        timed: metrics to which the comparison is limited; empty compares all.
        accuracy: whether they are trained and tested too.
    """
    return Asked(
        cells=tuple(cells),
        metrics=(*(timed or TIMED), *(() if timed else COUNTED), *(("accuracy",) if accuracy else ())),
        processes={cell: 0 if timed else processes_of(cell) for cell in cells},
        slices=2 * LEAST_ROUNDS,
        seeds=seeds_of(settings) if accuracy else 0,
        settings=asdict(settings),
        base=commits[0],
        head=commits[1],
        thresholds=thresholds(),
    )
