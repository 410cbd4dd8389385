"""A policy of one's own: the first stage and the head train, what is between them stays frozen."""

from fashiontl.freezing import Plan, Policy, StagePlan
from fashiontl.matrix.extensions import register

FROZEN = StagePlan(trains="none", normalisation="eval", lr_scale=0)
SLOW = StagePlan(trains="all", normalisation="batch", lr_scale=0.3)
HEAD = StagePlan(trains="all", normalisation="batch", lr_scale=1)


def plan(names: tuple[str, ...], epoch: int, epochs: int) -> Plan:
    """Say for each stage, in the order in which they run, what it does in this epoch."""
    del epoch, epochs  # the plan is the same in each
    return (SLOW, *[FROZEN] * (len(names) - 2), HEAD)


register(Policy("ends", "the first stage, slowly, and the head", "docs/extending.md", plan))
