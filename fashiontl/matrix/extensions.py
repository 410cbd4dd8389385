"""Architectures, policies, tasks, metrics and phases from outside this package: a module calls `register`. No torch.

Each process that looks a name up loads the same list of modules first: pytest's, those of pytest-xdist, and the
worker's.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from fashiontl.core.errors import FashiontlError, no_file, user_path
from fashiontl.core.metrics import METRICS, Metric, unit_errors
from fashiontl.core.parsing import decode_toml
from fashiontl.data import TASKS, Task
from fashiontl.freezing import POLICIES, Policy
from fashiontl.machine.devices import DEVICES, Device
from fashiontl.models.registry import ARCHITECTURES, Architecture


@dataclass(frozen=True)
class ExtraPhase:
    """One more phase of every cell, after the others, in a process of its own.

    Attributes:
        name: for progress and reasons.
        function: `module:function`. It is called with a `fashiontl.runner.workload.Workload` and a progress callback,
            and returns a `fashiontl.runner.messages.PhaseResult`.
    """

    name: str
    function: str


@dataclass(frozen=True)
class ReportSection:
    """One more section under each table of the leaderboard.

    Attributes:
        name: its heading.
        function: `module:function`. It is called with the table's records (`fashiontl.records.Record`), the most
            accurate first, and returns Markdown; `fashiontl.core.escape.to_markdown` escapes texts from records.
    """

    name: str
    function: str


EXTRA_PHASES: dict[str, ExtraPhase] = {}
REPORT_SECTIONS: dict[str, ReportSection] = {}

Entry: TypeAlias = Architecture | Policy | Task | Metric | ExtraPhase | ReportSection | type[Device]

# A case's id joins names with `-`, options separate them with commas, and `@`, `+`, `:` and `/` have meanings of their
# own in names.
_NAME = re.compile(r"\w[\w.]*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_FUNCTION = re.compile(rf"{_MODULE.pattern}:[A-Za-z_]\w*", re.ASCII)
_TABLES: dict[type, tuple[str, dict[str, Any]]] = {
    Architecture: ("architecture", ARCHITECTURES),
    Policy: ("policy", POLICIES),
    Task: ("task", TASKS),
    Metric: ("metric", METRICS),
    ExtraPhase: ("phase", EXTRA_PHASES),
    ReportSection: ("report section", REPORT_SECTIONS),
    Device: ("device", DEVICES),
}
# Kind and name of what each extension that was loaded has added.
_ADDED: dict[str, tuple[str, ...]] = {}


def register(*entries: Entry) -> None:
    """Add entries: architectures, policies, tasks, metrics, phases, report sections, and classes of devices.

    An equal entry changes nothing.

    Raises:
        FashiontlError: something is no entry, or its name is taken or would break the ids of cases. All errors are
            listed, and then nothing is added.
    """
    if errors := [error for entry in entries for error in _errors(entry)]:
        raise FashiontlError("\n".join(errors))
    for entry in entries:
        _TABLES[_kind(entry)][1][_key(entry)] = entry


def _kind(entry: Entry) -> type:
    return Device if isinstance(entry, type) and issubclass(entry, Device) else type(entry)


def _key(entry: Any) -> str:
    name: str = entry.kind if _kind(entry) is Device else entry.name
    return name


def _errors(entry: Entry) -> list[str]:
    if _kind(entry) not in _TABLES:
        known = ", ".join(each.__name__ for each in _TABLES)
        return [f"expected one of {known}, got {entry!r}"]
    kind, table = _TABLES[_kind(entry)]
    name, errors = _key(entry), []
    if not _NAME.fullmatch(name) or name == "all":
        errors.append(f"expected a name of letters, digits, _ and . (not all), got {name!r}")
    elif table.get(name, entry) != entry:
        errors.append("this name is taken by another entry; choose a new one")
    if isinstance(entry, Architecture) and entry.weights and ":" in entry.builder:
        errors.append(
            "weights are names that torchvision publishes, for torchvision's builders only; name a file instead"
        )
    if isinstance(entry, ExtraPhase | ReportSection) and not _FUNCTION.fullmatch(entry.function):
        errors.append(f"expected a function as module:function, got {entry.function!r}")
    if isinstance(entry, Metric):
        errors += unit_errors(entry)
    return [f"{kind} {name}: {error}" for error in errors]


def load(names: Sequence[str]) -> None:
    """Import extensions, each once a process: modules that are installed or in the current folder, or `.py` files.

    A file becomes the module of its name, and its folder can be imported from, so that a file `my_nets.py` may name the
    builder `my_nets:Tiny`. What one prints meanwhile goes to standard error.

    Raises:
        FashiontlError: one cannot be found, or fails; the message names the file, the line and the error.
    """
    for name in names:
        module = _findable(name)
        before = _registered()
        try:
            # A command's own output, which may be JSON, is for what was asked.
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever someone else's file does, the message says where
            raise FashiontlError(f"extension {name}: {_account(error)}") from error
        added = tuple(entry for entry in _registered() if entry not in before)
        _ADDED[module] = _ADDED.get(module, ()) + added


def _registered() -> list[str]:
    return [f"{kind} {name}" for kind, table in _TABLES.values() for name in table]


def _findable(name: str) -> str:
    """The name of an extension's module, which can be imported after this."""
    if name.endswith(".py"):
        path = Path(os.path.realpath(user_path(name)))
        module = path.stem
        if not path.is_file() or not _MODULE.fullmatch(module) or "." in module:
            raise FashiontlError(
                f"extension {name}: expected a file whose name is a Python identifier, got "
                f"{path.name if path.is_file() else f'no file {path}'}; correct the name"
            )
        _search(path.parent)
        found = _file(module)
        if found is None or not found.samefile(path):
            raise FashiontlError(
                f"extension {name}: expected a name that no other module has, but Python finds {module} "
                f"in {found or 'its own library'}; rename the file"
            )
        return module
    if not _MODULE.fullmatch(name):
        raise FashiontlError(f"extension {name!r}: expected a module (package.module) or the path of a .py file")
    # As with `python -m`, which pytest's own command does not do.
    _search(Path.cwd())
    return name


def _search(folder: Path) -> None:
    # At the end, so that no file beside an extension hides a module that others import.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def _file(module: str) -> Path | None:
    """Where Python finds a module; None for what is built in."""
    loaded = sys.modules.get(module)
    origin = loaded.__spec__.origin if loaded and loaded.__spec__ else None
    if loaded is None and (spec := importlib.util.find_spec(module)):
        origin = spec.origin
    return Path(origin) if origin and Path(origin).exists() else None


def _account(error: BaseException) -> str:
    """What failed, and in which line of the extension."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    what = str(error) if isinstance(error, FashiontlError) else traceback.format_exception_only(error)[-1].strip()
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    if not frames:
        return f"{what}; install it, or name the path of a .py file"
    # The first frame is in the extension; what it calls elsewhere is not where its author looks first.
    place = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f"{place.filename}, line {place.lineno}: {what}"


def added() -> dict[str, tuple[str, ...]]:
    """What each extension that is loaded has added, such as `architecture tiny`, by the name of its module."""
    return dict(_ADDED)


def facts(names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each loaded extension, for the record, by the name of its module.

    Of a package all its Python files count; what an extension imports from elsewhere does not.
    """
    found = {}
    for name in names:
        module = Path(name).stem if name.endswith(".py") else name
        file = Path(str(_file(module)))
        paths = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        found[module] = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    return found


def located(names: Sequence[str], folder: Path) -> list[str]:
    """The same names, with paths of files made absolute, so that every process finds them."""
    return [os.path.realpath(folder / user_path(name)) if name.endswith(".py") else name for name in names]


def chosen(named: Sequence[str], folder: Path, project: Path | None = None) -> list[str]:
    """All extensions of a session, each once: those of a project's `pyproject.toml`, then those named in a folder.

    Without a project it is the folder.
    """
    return list(dict.fromkeys([*configured(project or folder), *located(named, folder)]))


class _Entry(msgspec.Struct, frozen=True):
    extensions: tuple[str, ...] = ()


class _Tools(msgspec.Struct, frozen=True):
    fashiontl: _Entry = _Entry()


class _Project(msgspec.Struct, frozen=True):
    tool: _Tools = _Tools()


def configured(folder: Path) -> list[str]:
    """The extensions that `[tool.fashiontl] extensions = [...]` names in a folder's `pyproject.toml`."""
    path = folder / "pyproject.toml"
    if not path.exists():
        return []
    if kind := no_file(path):
        raise FashiontlError(f"{path}: expected TOML, got {kind}; move it away, or call this in another folder")
    return located(decode_toml(path.read_bytes(), _Project, str(path)).tool.fashiontl.extensions, folder)
