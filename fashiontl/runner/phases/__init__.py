"""What a worker process can be asked to do: each function here is one phase, run in a fork of its own.

A phase takes a job (what `fashiontl.runner.cell` wrote) and a progress callback, and returns what JSON holds.
"""

from fashiontl.runner.phases.accuracy import pretrain, train
from fashiontl.runner.phases.arithmetic import count
from fashiontl.runner.phases.batch_sweep import sweep
from fashiontl.runner.phases.extra import extra
from fashiontl.runner.phases.identity import identity
from fashiontl.runner.phases.machine import device, peak, variant
from fashiontl.runner.phases.profile_step import profile
from fashiontl.runner.phases.slices import slices
from fashiontl.runner.phases.speed import inference, step

__all__ = [
    "count",
    "device",
    "extra",
    "identity",
    "inference",
    "peak",
    "pretrain",
    "profile",
    "slices",
    "step",
    "sweep",
    "train",
    "variant",
]
