"""`fashiontl list`: every axis of the matrix, what of it is here, and why the rest is not."""

from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from fashiontl.architectures import ARCHITECTURES
from fashiontl.case import DEFAULT_ARCHITECTURES, DEFAULT_POLICIES, PRESETS
from fashiontl.data import TASKS
from fashiontl.data.sources import candidates
from fashiontl.devices import DEVICES, absence
from fashiontl.extensions import added
from fashiontl.freezing import POLICIES
from fashiontl.options import WEIGHTS, published_names

_Rows = Iterable[tuple[str, ...]]


def listing(data_root: str = "") -> str:
    """All axes as tables for a terminal; a star marks what runs when nothing is named."""
    sections = [
        _section("architectures (--arch)", ("name", "family", "least pixels", "ImageNet weights"), _architectures()),
        _section("freezing policies (--policy)", ("name", "what trains", "source"), _policies()),
        _section("devices (--device)", ("name", "title", "here"), _devices()),
        _section("tasks (--task)", ("name", "what", "classes"), _tasks()),
        _section("weights (--weights)", ("name", "what"), _weights()),
        _section("data (--data-root)", ("source", "folder", "here"), _data(data_root)),
        _section("presets (--preset)", ("name", "data", "pixels", "epochs", "seeds"), _presets()),
    ]
    if added():
        sections.append(_section("extensions (--fashiontl-plugin)", ("module", "adds"), _extensions()))
    return "\n\n".join([*sections, "* runs when the axis is not named"])


def _section(title: str, header: tuple[str, ...], rows: _Rows) -> str:
    return f"{title}\n" + tabulate(list(rows), headers=header, tablefmt="simple", disable_numparse=True)


def _star(name: str, defaults: Iterable[str]) -> str:
    return f"{name} *" if name in defaults else name


def _architectures() -> _Rows:
    import torch

    from fashiontl.vision import models

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name, entry in ARCHITECTURES.items():
        state = "none published"
        if entry.weights:  # then the builder is torchvision's
            weights = models.get_model_weights(entry.builder).DEFAULT
            here = (folder / Path(weights.url).name).exists()
            state = f"{weights.name}, " + ("here" if here else "to be downloaded")
        yield _star(name, DEFAULT_ARCHITECTURES), entry.family or "own", str(entry.minimum_size), state


def _policies() -> _Rows:
    for name, policy in POLICIES.items():
        yield _star(name, DEFAULT_POLICIES), policy.title, policy.source


def _devices() -> _Rows:
    for name, device in DEVICES.items():
        yield name, device.title, absence(name) or "yes"


def _tasks() -> _Rows:
    for name, task in TASKS.items():
        yield name, task.title, ", ".join(task.class_names)
    yield "NAME@25", "one of these with 25 training images a class, or any other number", ""


def _weights() -> _Rows:
    yield from WEIGHTS.items()
    for name in published_names():
        count = sum(name in entry.weights for entry in ARCHITECTURES.values())
        yield name, f"published for {count} of the architectures above"
    yield "FILE", "a checkpoint of that architecture"
    yield "FOLDER", "with checkpoints, each named after its architecture"


def _extensions() -> _Rows:
    for module, entries in added().items():
        yield module, ", ".join(entries) or "nothing"


def _data(root: str) -> _Rows:
    for source in candidates(root or None):
        yield source.name, str(source.path), source.reason or "yes"


def _presets() -> _Rows:
    for name, preset in PRESETS.items():
        yield name, preset.data, str(preset.image_size), str(preset.epochs), str(preset.seeds)
