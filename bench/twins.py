"""Networks beside which others can be judged: twins that do the same, and twins that are slower by a known share.

An extension for `bench/same_twice.py`: `twin_resnet18` is resnet18, and `slow5_resnet18` waits after each forward pass
for 5 % of the time that this took.
"""

import dataclasses
from functools import partial
from typing import Any

from fashiontl.matrix.extensions import register
from fashiontl.models.registry import ARCHITECTURES, Architecture

NETWORKS = ("resnet18", "mobilenet_v2", "resnet9", "shufflenet_v2_x0_5")
SLOWER = (3, 5, 10)


def build_slower(name: str, percent: int, classes: int, image_size: int) -> Any:
    """A network that takes so many per cent longer forwards, whatever the machine is like at that moment."""
    import time

    from fashiontl.models.build import build
    from fashiontl.models.network import Network

    class Slower(Network):
        def forward(self, images: Any) -> Any:
            started = time.perf_counter()
            answers = super().forward(images)
            now = time.perf_counter()
            end = now + percent / 100 * (now - started)
            # Sleeping would wake up late.
            while time.perf_counter() < end:
                pass
            return answers

    network = build(name, classes, image_size=image_size)
    network.__class__ = Slower
    return network


for _name in NETWORKS:
    _entry = ARCHITECTURES[_name]
    register(dataclasses.replace(_entry, name=f"twin_{_name}", weights=()))
    for _percent in SLOWER:
        _function = f"{_name}_{_percent}"
        globals()[_function] = partial(build_slower, _name, _percent)
        register(
            Architecture(f"slow{_percent}_{_name}", minimum_size=_entry.minimum_size, builder=f"{__name__}:{_function}")
        )
