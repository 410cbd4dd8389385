"""The phase by which an arm of the gate proves what it imports, and tells which cases it has."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import fashiontl
from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError, unknown_name
from fashiontl.data import find_task
from fashiontl.freezing import POLICIES
from fashiontl.machine.devices import DEVICES, is_device
from fashiontl.machine.environment import PROTOCOL
from fashiontl.matrix import extensions
from fashiontl.matrix.options import AXES, matrix
from fashiontl.models.registry import check_name
from fashiontl.runner.messages import Identity, IdentityJob, Progress


def identity(job: IdentityJob, progress: Progress) -> Identity:
    """Import what is under test, and tell from where it came."""
    progress("importing")
    extensions.load(job.extensions)
    return Identity(
        version=fashiontl.__version__,
        protocol=PROTOCOL,
        torch=str(torch.__version__),
        modules={name: importlib.import_module(name).__file__ for name in job.modules},
        lacks=[_lack(_known(case)) for case in job.cases],
        matrix=_matrix(job.matrix),
        fields={"case": _names(Case), "settings": _names(Settings)},
        strangers=strangers(Path(job.other)),
    )


def strangers(other: Path) -> list[str]:
    """Files of another tree that this process has imported; libraries that are installed in it are no part of it.

    Args:
        other: its folder, absolute. The current folder is this process's own tree, which may lie in the other.
    """
    own, other = Path.cwd().resolve(), other.resolve()
    ours = [Path(folder).resolve() for folder in (sys.prefix, sys.base_prefix)]
    ours += [own] if own.is_relative_to(other) else []
    ours = [folder for folder in ours if folder != other]
    files = [file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    # Most files are installed, and need no closer look.
    found = {Path(file).resolve() for file in files if not file.startswith(sys.prefix + os.sep)}
    return sorted(
        str(file)
        for file in found
        if file.is_relative_to(other) and not any(file.is_relative_to(folder) for folder in ours)
    )


def _known(case: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of a case; whoever asks sees by the fields whether that is all."""
    names = _names(Case)
    return {name: value for name, value in case.items() if name in names}


def _names(kind: type[Case] | type[Settings]) -> list[str]:
    return [field.name for field in fields(kind)]


def _lack(case: Mapping[str, Any]) -> str | None:
    """Why there is no such case here."""
    found = Case(**case)
    checks: Iterable[Callable[[], object]] = (
        lambda: check_name(found.architecture),
        lambda: _is_in("policy", found.policy, found.policy in POLICIES, POLICIES),
        lambda: _is_in("device", found.device, is_device(found.device), DEVICES),
        lambda: find_task(found.task),
    )
    faults = []
    for check in checks:
        try:
            check()
        except FashiontlError as error:
            faults.append(str(error))
    return "; ".join(faults) or None


def _is_in(kind: str, name: str, known: bool, names: Iterable[str]) -> None:
    if not known:
        raise FashiontlError(unknown_name(kind, name, names))


def _matrix(options: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The cases that the same options mean here; none where they name what is not here."""
    if options is None:
        return []
    if not options["axes"].keys() <= AXES.keys():
        return []
    try:
        cases, _ = matrix(options["axes"], options["preset"], options["assignments"], options.get("data_root", ""))
    except FashiontlError:
        return []
    return [{field: getattr(case, field) for field in _names(Case)} for case in cases]
