"""What a worker process can be asked to do: each function here is one phase, run in a fork of its own.

A phase takes a job (what `fashiontl.measure` wrote) and a progress callback, and returns what JSON holds.
"""

from fashiontl.phases.accuracy import pretrain, train
from fashiontl.phases.box import device
from fashiontl.phases.speed import inference, step
from fashiontl.phases.traces import profile

__all__ = ["device", "inference", "pretrain", "profile", "step", "train"]
