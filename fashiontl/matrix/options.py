"""From option texts to a validated matrix: the same checks for pytest and the command line. No torch."""

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from fashiontl.core.case import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_POLICIES,
    DEFAULT_TASK,
    EXECUTIONS,
    LARGEST_BATCH,
    LARGEST_IMAGE,
    MEMORY_FORMATS,
    PRECISIONS,
    PRESET_ARCHITECTURES,
    PRESET_POLICIES,
    PRESET_TASKS,
    PRESETS,
    Case,
    Settings,
    expand,
    is_published,
    override,
    parse_text,
)
from fashiontl.core.errors import FashiontlError, unknown_name
from fashiontl.data import TASKS, find_task
from fashiontl.freezing import POLICIES
from fashiontl.machine.devices import DEVICES, Device, is_device, seen_devices
from fashiontl.matrix import extensions as extension_modules
from fashiontl.models.registry import ARCHITECTURES, check_name, find, members

WEIGHTS = {
    "none": "random start",
    "imagenet": "the best published ImageNet weights",
    "fashion6": "trained here on the six classes that fashion4 lacks",
}
_VARIANTS = {"precision": PRECISIONS, "memory_format": MEMORY_FORMATS, "execution": EXECUTIONS}
# The task whose training made a backbone, for weights that are made here.
SOURCE_TASKS = {"fashion6": "fashion6"}

# What names each axis on a command line, for `--help`; the names are the fields of `Axes`.
AXES = {
    "arch": "architecture",
    "policy": "freezing policy",
    "device": "device: cpu, cuda, cuda:1, mps, xpu",
    "task": "task; fashion10@25 takes 25 training images a class",
    "weights": f"{', '.join(WEIGHTS)}, a published name, a checkpoint file or a folder of them",
    "precision": ", ".join(PRECISIONS),
    "memory_format": " or ".join(MEMORY_FORMATS),
    "execution": f"{', '.join(EXECUTIONS)}: the last two by torch.compile",
    "image_size": "side of the images in pixels",
    "batch": "images a step in the throughput measurements",
}


@dataclass(frozen=True)
class Axes:
    """Option texts as they were given; each may be repeated and may hold several names between commas."""

    arch: Sequence[str] = ()
    policy: Sequence[str] = ()
    device: Sequence[str] = ()
    task: Sequence[str] = ()
    weights: Sequence[str] = ()
    precision: Sequence[str] = ()
    memory_format: Sequence[str] = ()
    execution: Sequence[str] = ()
    image_size: Sequence[str] = ()
    batch: Sequence[str] = ()


def matrix(
    axes: Axes, preset: str, assignments: Sequence[str] = (), data_root: str = "", extensions: Sequence[str] = ()
) -> tuple[list[Case], Settings]:
    """Load extensions, validate all options and expand them.

    Args:
        axes: option texts.
        preset: a name in `PRESETS`.
        assignments: `name=value` texts that override the preset.
        data_root: folder of the original images; empty for none.
        extensions: as `fashiontl.matrix.extensions.load` takes them.

    Raises:
        FashiontlError: lists every fault of every option, not just the first.
    """
    faults: list[str] = []
    settings = PRESETS["quick"]
    try:
        extension_modules.load(extensions)
    except FashiontlError as error:
        faults += str(error).splitlines()
    try:
        settings = _settings(preset, assignments, data_root)
    except FashiontlError as error:
        faults += str(error).splitlines()
    architectures = _names(
        "arch", axes.arch, PRESET_ARCHITECTURES.get(preset, DEFAULT_ARCHITECTURES), ARCHITECTURES, check_name, faults
    )
    policies = _names(
        "policy",
        axes.policy,
        PRESET_POLICIES.get(preset, DEFAULT_POLICIES),
        POLICIES,
        _known("policy", POLICIES),
        faults,
    )
    tasks = _names("task", axes.task, (PRESET_TASKS.get(preset, DEFAULT_TASK),), TASKS, find_task, faults)
    devices = _names("device", axes.device, seen_devices(), DEVICES, _known("device", DEVICES, is_device), faults)
    known_weights = (*WEIGHTS, *published_names(architectures))
    check_weights = _known("weights", known_weights, os.path.exists)
    weights = _names("weights", axes.weights, ("",), WEIGHTS, check_weights, faults)
    variants: dict[str, list[Any]] = {
        name: _names(
            name.replace("_", " "), getattr(axes, name), known[:1], known, _known(name.replace("_", " "), known), faults
        )
        for name, known in _VARIANTS.items()
    }
    for name in ("image_size", "batch"):
        variants[name] = _sizes(name.replace("_", " "), getattr(axes, name), faults)
    if not faults:
        devices = list(dict.fromkeys(Device.of(name).name for name in devices))
        cases = expand(architectures, policies, devices, tasks, weights, **variants)
        faults = list(dict.fromkeys(fault for case in cases if (fault := _leak(case))))
    if faults:
        raise FashiontlError("\n".join(faults))
    return cases, settings


def published_names(architectures: Iterable[str] = ()) -> list[str]:
    """Names under which weights of any architecture in the table are published, and of those named here."""
    entries = list(ARCHITECTURES.values())
    for name in architectures:
        with suppress(FashiontlError):  # an unknown architecture is a fault of its own axis
            entries += [find(member) for member in members(name) or (name,)]
    return sorted({name for entry in entries for name in entry.weights})


def anchored(weights: str) -> str:
    """Weights by an absolute path where they are a file or folder, for a process that has another current folder."""
    if weights in WEIGHTS or is_published(weights) or not os.path.exists(weights):  # noqa: PTH110 Path refuses some texts
        return weights
    return str(Path(weights).absolute())


def as_timed(case: Case) -> Case:
    """The same network from a random start where its weights would have to be trained first: it is as fast."""
    return replace(case, weights="none") if case.weights in SOURCE_TASKS else case


def _settings(preset: str, assignments: Sequence[str], data_root: str) -> Settings:
    if preset not in PRESETS:
        raise FashiontlError(unknown_name("preset", preset, PRESETS))
    settings = PRESETS[preset]
    if data_root:
        # Whoever names a folder wants its images, not the embedded ones.
        settings = replace(settings, data="original", data_root=data_root)
    return override(settings, list(assignments))


def _names(
    kind: str,
    texts: Sequence[str],
    default: Sequence[str],
    known: Iterable[str],
    check: Callable[[str], object],
    faults: list[str],
) -> list[str]:
    names = _parted(kind, texts, faults)
    if names == ["all"]:
        return list(known)
    for name in names:
        try:
            check(name)
        except FashiontlError as error:
            faults += str(error).splitlines()
    return list(dict.fromkeys(names)) or list(default)


def _sizes(kind: str, texts: Sequence[str], faults: list[str]) -> list[int]:
    """Whole numbers in their range; 0, which is the settings' own, when none is named."""
    largest = {"image size": LARGEST_IMAGE, "batch": LARGEST_BATCH}[kind]
    sizes = []
    for name in _parted(kind, texts, faults):
        try:
            sizes.append(parse_text(name, Annotated[int, Meta(ge=1, le=largest)]))
        except ValueError as error:
            faults.append(f"{kind}: {error}")
    return list(dict.fromkeys(sizes)) or [0]


def _parted(kind: str, texts: Sequence[str], faults: list[str]) -> list[str]:
    """The names between commas; an empty one, as of a shell's variable that is not set, never means all or none."""
    names = []
    for text in texts:
        parts = [name.strip() for name in text.split(",")]
        if not all(parts):
            faults.append(
                f"{kind}: expected names between commas, each of one letter or more, got {text!r}; leave the option "
                "out for the default"
            )
        names += [name for name in parts if name]
    return names


def _known(kind: str, known: Iterable[str], also: Callable[[str], bool] = lambda name: False) -> Callable[[str], None]:
    """A check that a name is in a table, or is allowed for another reason."""

    def check(name: str) -> None:
        if name not in known and not also(name):
            raise FashiontlError(unknown_name(kind, name, known))

    return check


def _leak(case: Case) -> str | None:
    """A source that has seen the target's classes is not a transfer."""
    source, task = SOURCE_TASKS.get(case.weights), find_task(case.task)
    if source is None or task.images is not None or not set(TASKS[source].classes) & set(task.classes):
        return None
    return (
        f"weights {case.weights} were trained on classes that task {case.task} contains, which is no transfer; "
        "use --task fashion4, or --weights imagenet, none or a file"
    )


def filled(text: str) -> str:
    """A text of an option as argparse's `type`; an empty one, as of a shell's variable that is not set, is an error."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected one letter or more, got {text!r}; leave it out for the default")
    return text


def filled_path(text: str) -> Path:
    """The same of a path."""
    return Path(filled(text))


def minutes(text: str) -> float:
    """A budget of the gate as argparse's `type`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # 60 times it must be a number of seconds as well; nobody waits for ten years.
    if not 0 < value <= 5e6:
        raise argparse.ArgumentTypeError(
            f"expected minutes above 0 and up to 5000000, got {text[:40]!r}; leave it out for no limit"
        )
    return value


def whole(text: str) -> int:
    """A number of things as argparse's `type`: Python reads none of thousands of digits, and none here is so large."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 999999999, got {text[:40]!r}")
    return int(text)
