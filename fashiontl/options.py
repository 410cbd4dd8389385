"""From option texts to a validated matrix: the same checks for pytest and the command line. No torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fashiontl.architectures import ARCHITECTURES
from fashiontl.case import (
    DEFAULT_ARCHITECTURES,
    DEFAULT_POLICIES,
    PRESET_TASKS,
    PRESETS,
    Case,
    Settings,
    expand,
    override,
)
from fashiontl.data import TASKS
from fashiontl.devices import DEVICES, is_device, seen_devices
from fashiontl.errors import FashiontlError, unknown_name
from fashiontl.freezing import POLICIES

WEIGHTS = {
    "none": "random start",
    "imagenet": "torchvision's own ImageNet weights",
    "fashion6": "trained here on the six classes that fashion4 lacks",
}
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


def matrix(
    axes: Axes, preset: str, assignments: Sequence[str] = (), data_root: str = ""
) -> tuple[list[Case], Settings]:
    """Validate all options and expand them.

    Raises:
        FashiontlError: lists every fault of every option, not just the first.
    """
    faults: list[str] = []
    settings = PRESETS["quick"]
    try:
        settings = _settings(preset, assignments, data_root)
    except FashiontlError as error:
        faults += str(error).splitlines()
    architectures = _names("architecture", axes.arch, DEFAULT_ARCHITECTURES, ARCHITECTURES, faults)
    policies = _names("policy", axes.policy, DEFAULT_POLICIES, POLICIES, faults)
    tasks = _names("task", axes.task, (PRESET_TASKS.get(preset, "fashion4"),), TASKS, faults)
    devices = _names("device", axes.device, seen_devices(), DEVICES, faults, is_device)
    weights = _names("weights", axes.weights, ("",), WEIGHTS, faults, lambda name: Path(name).is_file())
    if not faults:
        cases = expand(architectures, policies, devices, tasks, weights)
        faults = list(dict.fromkeys(fault for case in cases if (fault := _leak(case))))
    if faults:
        raise FashiontlError("\n".join(faults))
    return cases, settings


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
    faults: list[str],
    also: Callable[[str], bool] = lambda name: False,
) -> list[str]:
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(known)
    faults += [unknown_name(kind, name, known) for name in names if name not in known and not also(name)]
    return list(dict.fromkeys(names)) or list(default)


def _leak(case: Case) -> str | None:
    """A source that has seen the target's classes is not a transfer."""
    source = SOURCE_TASKS.get(case.weights)
    if source is None or not set(TASKS[source].classes) & set(TASKS[case.task].classes):
        return None
    return (
        f"weights {case.weights} were trained on classes that task {case.task} contains, which is no transfer; "
        "use --task fashion4, or --weights imagenet, none or a file"
    )
