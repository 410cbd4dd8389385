"""Ranges in the profiler's record that say which module of a network runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.profiler import record_function

PREFIX = "fashiontl.module: "


@contextmanager
def module_ranges(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Open a range while a module's forward runs; hooks and ranges are gone afterwards, whatever happened.

    Hooks keep torch from its fast path for attention without gradients, so a profile of inference with
    `nn.MultiheadAttention` shows the ordinary path. What torch.compile has compiled has no modules inside.

    Args:
        modules: networks, each under what its modules' dotted paths begin with: nothing for `""`. A module that is
            met twice has its first path.
    """
    opened: list[record_function] = []
    handles = []

    def instrument(path: str, module: nn.Module) -> None:
        def before(*unused: object) -> None:
            del unused
            if not torch.compiler.is_compiling():
                opened.append(record_function(PREFIX + path))
                opened[-1].__enter__()  # type: ignore[no-untyped-call]

        def after(*unused: object) -> None:
            del unused
            if not torch.compiler.is_compiling():
                opened.pop().__exit__(None, None, None)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, always_call=True))

    try:
        met: set[nn.Module] = set()
        for prefix, network in modules.items():
            for path, module in network.named_modules(memo=met, prefix=prefix):
                instrument(path, module)
        yield
    finally:
        for handle in handles:
            handle.remove()
        # Left open by what is no Exception, such as a key pressed: torch calls no hooks then.
        while opened:
            opened.pop().__exit__(None, None, None)
