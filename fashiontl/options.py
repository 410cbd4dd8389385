"""From option texts to a validated matrix: the same checks for pytest and the command line. No torch."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fashiontl import extensions as extension_modules
from fashiontl.architectures import ARCHITECTURES, check_name, find, members
from fashiontl.case import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_POLICIES,
    DEFAULT_TASK,
    EXECUTIONS,
    MEMORY_FORMATS,
    PRECISIONS,
    PRESET_ARCHITECTURES,
    PRESET_POLICIES,
    PRESET_TASKS,
    PRESETS,
    Case,
    Settings,
    expand,
    override,
)
from fashiontl.data import TASKS, find_task
from fashiontl.devices import DEVICES, is_device, seen_devices
from fashiontl.errors import FashiontlError, unknown_name
from fashiontl.freezing import POLICIES

WEIGHTS = {
    "none": "random start",
    "imagenet": "the best published ImageNet weights",
    "fashion6": "trained here on the six classes that fashion4 lacks",
}
_VARIANTS = {"precision": PRECISIONS, "memory_format": MEMORY_FORMATS, "execution": EXECUTIONS}
# The task whose training made a backbone, for weights that are made here.
SOURCE_TASKS = {"fashion6": "fashion6"}


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
        extensions: as `fashiontl.extensions.load` takes them.

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
        axes.arch, PRESET_ARCHITECTURES.get(preset, DEFAULT_ARCHITECTURES), ARCHITECTURES, check_name, faults
    )
    policies = _names(axes.policy, PRESET_POLICIES.get(preset, DEFAULT_POLICIES), POLICIES, _check_policy, faults)
    tasks = _names(axes.task, (PRESET_TASKS.get(preset, DEFAULT_TASK),), TASKS, find_task, faults)
    devices = _names(axes.device, seen_devices(), DEVICES, _known("device", DEVICES, is_device), faults)
    known_weights = (*WEIGHTS, *published_names(architectures))
    a_path = _known("weights", known_weights, lambda name: Path(name).exists())
    weights = _names(axes.weights, ("",), WEIGHTS, a_path, faults)
    variants: dict[str, list[Any]] = {
        name: _names(getattr(axes, name), known[:1], known, _known(name.replace("_", " "), known), faults)
        for name, known in _VARIANTS.items()
    }
    for name in ("image_size", "batch"):
        variants[name] = _sizes(name.replace("_", " "), getattr(axes, name), faults)
    if not faults:
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


def _settings(preset: str, assignments: Sequence[str], data_root: str) -> Settings:
    if preset not in PRESETS:
        raise FashiontlError(unknown_name("preset", preset, PRESETS))
    settings = PRESETS[preset]
    if data_root:
        # Whoever names a folder wants its images, not the embedded ones.
        settings = replace(settings, data="original", data_root=data_root)
    return override(settings, list(assignments))


def _names(
    texts: Sequence[str],
    default: Sequence[str],
    known: Iterable[str],
    check: Callable[[str], object],
    faults: list[str],
) -> list[str]:
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(known)
    for name in names:
        try:
            check(name)
        except FashiontlError as error:
            faults += str(error).splitlines()
    return list(dict.fromkeys(names)) or list(default)


def _sizes(kind: str, texts: Sequence[str], faults: list[str]) -> list[int]:
    """Whole numbers from 1; 0, which is the settings' own, when none is named."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not (name.isascii() and name.isdecimal()) or int(name) < 1]
    faults += [f"{kind}: expected a whole number of at least 1, got {name!r}" for name in wrong]
    return [] if wrong else list(dict.fromkeys(map(int, names))) or [0]


def _known(kind: str, known: Iterable[str], also: Callable[[str], bool] = lambda name: False) -> Callable[[str], None]:
    """A check that a name is in a table, or is allowed for another reason."""

    def check(name: str) -> None:
        if name not in known and not also(name):
            raise FashiontlError(unknown_name(kind, name, known))

    return check


def _check_policy(name: str) -> None:
    _known("policy", POLICIES)(name)
    if name == "lora" and importlib.util.find_spec("peft") is None:
        raise FashiontlError("policy lora needs the library peft; pip install 'fashiontl[lora]'")


def _leak(case: Case) -> str | None:
    """A source that has seen the target's classes is not a transfer."""
    source, task = SOURCE_TASKS.get(case.weights), find_task(case.task)
    if source is None or task.images is not None or not set(TASKS[source].classes) & set(task.classes):
        return None
    return (
        f"weights {case.weights} were trained on classes that task {case.task} contains, which is no transfer; "
        "use --task fashion4, or --weights imagenet, none or a file"
    )
