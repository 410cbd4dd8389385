"""From option texts to a validated matrix: the same checks for pytest and the command line. No torch."""

import argparse
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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

# What names each axis on a command line, for `--help`.
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


def _several(metavar: str, text: str) -> dict[str, Any]:
    return {"action": "append", "default": [], "metavar": metavar, "help": text}


# Attributes for argparse of the options that name cells, by the option's name.
CELL_OPTIONS: dict[str, dict[str, Any]] = {
    **{
        f"--{name.replace('_', '-')}": _several(
            "NAMES", f"{title}; repeat it or separate names with commas, 'all' takes each (see fashiontl list)"
        )
        for name, title in AXES.items()
    },
    "--fashiontl-plugin": _several(
        "MODULE_OR_FILE", "Python module that registers entries of your own; repeat it for several"
    ),
    "--preset": {"default": "quick", "metavar": "NAME", "help": f"settings: {', '.join(PRESETS)} (quick)"},
    "--set": _several("NAME=VALUE", "override one setting of the preset"),
}


def matrix(
    axes: Mapping[str, Sequence[str]],
    preset: str,
    assignments: Sequence[str] = (),
    data_root: str = "",
    extensions: Sequence[str] = (),
) -> tuple[list[Case], Settings]:
    """Load extensions, validate all options and expand them.

    Args:
        axes: option texts as they were given, by names of `AXES`; each may hold several names between commas.
        preset: a name in `PRESETS`.
        assignments: `name=value` texts that override the preset.
        data_root: folder of the original images; empty for none.
        extensions: as `fashiontl.matrix.extensions.load` takes them.

    Raises:
        FashiontlError: lists every error of every option, not just the first.
    """
    errors: list[str] = []

    def attempt(check: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except FashiontlError as error:
            errors.extend(str(error).splitlines())

    def chosen(axis: str, default: Sequence[str], known: Collection[str], check: Callable[[str], object]) -> list[str]:
        names = attempt(_parted, axis.replace("_", " "), axes.get(axis, ())) or []
        if names == ["all"]:
            return list(known)
        for name in names:
            attempt(check, name)
        return names or list(default)

    attempt(extension_modules.load, extensions)
    settings = attempt(_settings, preset, assignments, data_root)
    default_architectures = PRESET_ARCHITECTURES.get(preset, DEFAULT_ARCHITECTURES)
    architectures = chosen("arch", default_architectures, ARCHITECTURES, check_name)
    default_policies = PRESET_POLICIES.get(preset, DEFAULT_POLICIES)
    policies = chosen("policy", default_policies, POLICIES, _known("policy", POLICIES))
    tasks = chosen("task", (PRESET_TASKS.get(preset, DEFAULT_TASK),), TASKS, find_task)
    devices = chosen("device", seen_devices(), DEVICES, _known("device", DEVICES, is_device))
    check_weights = _known("weights", (*WEIGHTS, *published_names(architectures)), os.path.exists)
    weights = chosen("weights", ("",), WEIGHTS, check_weights)
    variants: dict[str, list[Any]] = {
        name: chosen(name, known[:1], known, _known(name.replace("_", " "), known)) for name, known in _VARIANTS.items()
    }
    for name, largest in (("image_size", LARGEST_IMAGE), ("batch", LARGEST_BATCH)):
        variants[name] = attempt(_sizes, name.replace("_", " "), axes.get(name, ()), largest)
    if not errors:
        devices = list(dict.fromkeys(Device.of(name).name for name in devices))
        cases = expand(architectures, policies, devices, tasks, weights, **variants)
        errors = list(dict.fromkeys(error for case in cases if (error := _leak(case))))
    if errors:
        raise FashiontlError("\n".join(errors))
    return cases, settings


def published_names(architectures: Iterable[str] = ()) -> list[str]:
    """Names under which weights of any architecture in the table are published, and of those named here."""
    entries = list(ARCHITECTURES.values())
    for name in architectures:
        with suppress(FashiontlError):  # an unknown architecture is an error of its own axis
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


def _sizes(kind: str, texts: Sequence[str], largest: int) -> list[int]:
    """Whole numbers in their range; 0, which is the settings' own, when none is named."""
    sizes, errors = [], []
    for name in _parted(kind, texts):
        try:
            sizes.append(parse_text(name, Annotated[int, Meta(ge=1, le=largest)]))
        except ValueError as error:
            errors.append(f"{kind}: {error}")
    if errors:
        raise FashiontlError("\n".join(errors))
    return sizes or [0]


def _parted(kind: str, texts: Sequence[str]) -> list[str]:
    """The names between commas, each once; an empty one, as of an unset variable, never means all or none."""
    names = {text: [name.strip() for name in text.split(",")] for text in texts}
    errors = [
        f"{kind}: expected names between commas, each of one letter or more, got {text!r}; leave the option out for "
        "the default"
        for text, parts in names.items() if not all(parts)
    ]  # fmt: skip
    if errors:
        raise FashiontlError("\n".join(errors))
    return list(dict.fromkeys(itertools.chain.from_iterable(names.values())))


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


def _argument(kind: Any) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return parse_text(text, kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


# For argparse's `type`. Nobody waits for ten years, and 60 times as many seconds must be a number as well.
minutes = _argument(Annotated[float, Meta(ge=1e-3, le=5_000_000)])
processes = _argument(Annotated[int, Meta(ge=2, le=100)])
whole = _argument(Annotated[int, Meta(ge=1, le=10**9)])
