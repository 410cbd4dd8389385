"""What a worker process can be asked to do: each function here is one phase, run in a fork of its own.

A phase takes a job (what `fashiontl.measure` wrote) and a progress callback, and returns what JSON holds.
"""

from fashiontl.phases.accuracy import pretrain, train
from fashiontl.phases.arithmetic import count
from fashiontl.phases.box import device, noise, peak, self_test, variant
from fashiontl.phases.identity import identity
from fashiontl.phases.slices import slices
from fashiontl.phases.speed import inference, step
from fashiontl.phases.sweeping import sweep
from fashiontl.phases.traces import profile

__all__ = [
    "count",
    "device",
    "identity",
    "inference",
    "noise",
    "peak",
    "pretrain",
    "profile",
    "self_test",
    "slices",
    "step",
    "sweep",
    "train",
    "variant",
]
