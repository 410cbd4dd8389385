"""`fashiontl list`: every axis of the matrix, what of it is here, and why the rest is not."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tabulate import tabulate

from fashiontl.core.case import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_POLICIES,
    EXECUTIONS,
    MEMORY_FORMATS,
    PRECISIONS,
    PRESETS,
    Case,
)
from fashiontl.core.escape import to_line, to_terminal
from fashiontl.data import TASKS
from fashiontl.data.sources import candidates
from fashiontl.freezing import POLICIES, unavailable_reason
from fashiontl.machine.devices import DEVICES
from fashiontl.matrix.extensions import added
from fashiontl.matrix.options import WEIGHTS, published_names
from fashiontl.models.registry import ARCHITECTURES

_VARIANTS = {
    "precision": {
        "fp32": "float32; TF32 is off",
        "tf32": "float32, but products and convolutions may round to TF32",
        "bf16": "bfloat16: training under autocast, inference with such weights",
        "fp16": "float16: the same, with scaled losses",
    },
    "memory_format": {"contiguous": "channel by channel (NCHW)", "channels_last": "pixel by pixel (NHWC)"},
    "execution": {
        "eager": "operator by operator",
        "compile": "torch.compile in what is timed",
        "cuda_graphs": "torch.compile in its mode reduce-overhead, on CUDA",
    },
}
_DEFAULT_VARIANTS = (PRECISIONS[0], MEMORY_FORMATS[0], EXECUTIONS[0])


def listing(data_root: str = "") -> str:
    """All axes as tables for a terminal; a star marks what runs when nothing is named."""
    policies = [
        (_star(name, DEFAULT_POLICIES), policy.title, unavailable_reason(policy.library) or "yes", policy.source)
        for name, policy in POLICIES.items()
    ]
    tasks = [(name, task.title, ", ".join(task.class_names)) for name, task in TASKS.items()]
    tasks.append(("NAME@25", "one of these with 25 training images a class, or any other number", ""))
    presets = [
        (name, preset.data, str(preset.image_size), str(preset.epochs), str(preset.seeds))
        for name, preset in PRESETS.items()
    ]
    sections = [
        _section("architectures (--arch)", ("name", "family", "least pixels", "ImageNet weights"), _architectures()),
        _section("freezing policies (--policy)", ("name", "what trains", "here", "source"), policies),
        _section(
            "devices (--device)",
            ("name", "title", "here"),
            [(name, device.title, device().unavailable_reason() or "yes") for name, device in DEVICES.items()],
        ),
        _section("tasks (--task)", ("name", "what", "classes"), tasks),
        _section("weights (--weights)", ("name", "what"), _weights()),
        _section(
            "data (--data-root)",
            ("source", "folder", "here"),
            [(source.name, str(source.path), source.reason or "yes") for source in candidates(data_root or None)],
        ),
        *_variants(),
        _section("presets (--preset)", ("name", "data", "pixels", "epochs", "seeds"), presets),
    ]
    if extensions := [(module, ", ".join(entries) or "nothing") for module, entries in added().items()]:
        sections.append(_section("extensions (--fashiontl-plugin)", ("module", "adds"), extensions))
    return to_terminal("\n\n".join([*sections, "* runs when the axis is not named"]))


def _section(title: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [[to_line(text) for text in row] for row in rows]
    return f"{title}\n" + tabulate(cells, headers=header, tablefmt="simple", disable_numparse=True)


def _star(name: str, defaults: Iterable[str]) -> str:
    return f"{name} *" if name in defaults else name


def _architectures() -> Iterator[tuple[str, ...]]:
    import torch

    from fashiontl.data.torchvision_import import models

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name, entry in ARCHITECTURES.items():
        state = "none published"
        if entry.weights:  # then the builder is torchvision's
            weights = models.get_model_weights(entry.builder).DEFAULT
            here = (folder / Path(weights.url).name).exists()
            state = f"{weights.name}, " + ("here" if here else "to be downloaded")
        yield _star(name, DEFAULT_ARCHITECTURES), entry.family or "own", str(entry.minimum_size), state


def _weights() -> Iterator[tuple[str, ...]]:
    yield from WEIGHTS.items()
    for name in published_names():
        count = sum(name in entry.weights for entry in ARCHITECTURES.values())
        yield name, f"published for {count} of the architectures above"
    yield "FILE", "a checkpoint of that architecture"
    yield "FOLDER", "with checkpoints, each named after its architecture"


def _variants() -> Iterator[str]:
    """A table an axis, with a column for each kind of device that is here."""
    from fashiontl.timing import variants

    kinds = [name for name, device in DEVICES.items() if device().unavailable_reason() is None]
    for axis, values in _VARIANTS.items():
        rows = []
        for value, what in values.items():
            # Neither architecture nor policy matters.
            cases = [Case("resnet18", "full", kind, **{axis: value}) for kind in kinds]  # type: ignore[arg-type]
            here = [
                variants.unavailable_reason(case) or "; ".join(["yes", *variants.warnings_for(case)]) for case in cases
            ]
            rows.append((_star(value, _DEFAULT_VARIANTS), what, *here))
        title = f"{axis.replace('_', ' ')} (--{axis.replace('_', '-')})"
        yield _section(title, ("name", "what", *(f"here on {kind}" for kind in kinds)), rows)
