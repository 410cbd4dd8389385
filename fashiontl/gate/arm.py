"""An arm: one source tree, run by a fork server of its own that imports that tree and no other. No torch."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError, user_path
from fashiontl.gate.raw import Arm as Name
from fashiontl.gate.raw import FailureKind, Tree
from fashiontl.gate.result import Verdict
from fashiontl.gate.trees import Checkout
from fashiontl.machine.environment import PROTOCOL
from fashiontl.matrix.extensions import chosen
from fashiontl.matrix.options import anchored
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.live import EndedError, LiveProcess
from fashiontl.runner.messages import IDENTITY, CaseJob, Identity, IdentityJob, J, Phase, Progress, R, SlicesJob

# Intel's and LLVM's OpenMP keep threads spinning for 200 ms after they worked, which is into the other arm's turn.
_ENVIRONMENT = {"KMP_BLOCKTIME": "1"}
# Variables of the environment that name folders of data and weights: the caller's, and not those of the tree in which
# an arm's processes begin.
_FOLDERS = ("FASHIONTL_DATA", "TORCH_HOME")
_IDENTITY_SECONDS = 300.0
# Time budgets of a measurement that a warm-up may take: the process then lives on through many slices.
_WARM_UPS = 2
# How a fashiontl without workers, without this phase, or with other jobs and results answers.
_TOO_OLD = re.compile(r"No module named '?fashiontl\.runner\b|has no attribute 'identity'|another version of fashiontl")


class IncomparableError(FashiontlError):
    """The two trees cannot be compared at all.

    Attributes:
        verdict: of the whole gate: `NO_BASELINE` or `CRASHED`.
    """

    def __init__(self, verdict: Verdict, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


class StoppedError(Exception):
    """The process of an arm ended, or was ended, before it had answered."""

    def __init__(self, arm: Name, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.arm = arm
        self.kind = kind
        self.reason = reason


def failure_kind(outcome: Outcome[Any]) -> FailureKind:
    """What a phase that is not `ok` comes down to."""
    kinds: dict[str, FailureKind] = {"timeout": "timeout", "oom": "oom", "skipped": "missing"}
    return kinds.get(outcome.status, "crashed")


class Arm:
    """One of the two trees, and the processes that run it; use it as a context manager.

    Its processes begin in the tree's folder. Data and weights are the caller's in both arms, so paths to them are given
    to the processes as absolute ones.

    Args:
        name: which of the two.
        checkout: its tree.
        other: the other arm's tree.
        settings: how cases are run.
        cache: folder of the pretrained backbones.
        extensions: modules and files with entries of the user's own, besides those that the tree's `pyproject.toml`
            names; files are relative to the tree, or in the head's.

    Raises:
        FashiontlError: the head's `pyproject.toml` cannot be read.
        IncomparableError: the base's cannot.
    """

    def __init__(
        self,
        name: Name,
        checkout: Checkout,
        other: Checkout,
        settings: Settings,
        cache: Path,
        extensions: Sequence[str] = (),
    ) -> None:
        head = checkout if name == "head" else other
        self.name = name
        self._checkout = checkout
        self._other = other
        self._settings = settings
        self._cache = cache.absolute()
        try:
            self._extensions = _extensions(checkout, head, extensions)
        except FashiontlError as error:
            if name == "head":
                raise
            raise IncomparableError("CRASHED", f"{self._title}: {error}, or name another base") from error
        # What is in the tree must be imported from there.
        self._modules = [
            Path(name).stem if name.endswith(".py") else name
            for name in ("fashiontl", *self._extensions)
            if _file(checkout.folder, name) is not None
        ]
        self._fields: dict[str, list[str]] = {}
        trees, inherited = search_path(checkout, head, os.environ.get("PYTHONPATH", ""))
        folders = {name: _absolute(os.environ[name]) for name in _FOLDERS if os.environ.get(name)}
        environment = {**_ENVIRONMENT, **folders, "PYTHONPATH": inherited}
        self._worker = Worker(settings.threads, environment=environment, folder=checkout.folder, trees=trees)
        self._pipes = tempfile.TemporaryDirectory(prefix="fashiontl-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.close()
        self._pipes.cleanup()

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return self._worker.threads

    @property
    def variables(self) -> dict[str, str]:
        """The environment of each process."""
        return self._worker.variables

    def identify(self) -> Tree:
        """Have a process of this arm prove what it imports.

        Raises:
            IncomparableError: it imports nothing, or another tree, or measures by another protocol.
        """
        answer = self._identity([], None)
        if answer.protocol != PROTOCOL:
            raise IncomparableError(
                "NO_BASELINE",
                f"{self._title} has protocol {answer.protocol}, this fashiontl {PROTOCOL}: their numbers do not "
                "mean the same; measure from the next commit on, or name a base that has it",
            )
        self._fields = answer.fields
        checkout = self._checkout
        paths = []
        for module, file in answer.modules.items():
            path = Path(file or "").resolve()
            if not path.is_relative_to(checkout.root):
                raise IncomparableError(
                    "CRASHED",
                    f"{self._title}: expected {module} from {checkout.folder}, got {path}; take the other copy out of "
                    "PYTHONPATH",
                )
            paths.append(str(path.relative_to(checkout.root)))
        if answer.strangers:
            raise IncomparableError(
                "CRASHED",
                f"{self._title} imports files of the other tree: {', '.join(answer.strangers[:3])}; take it out of "
                "PYTHONPATH, and import nothing by an absolute path",
            )
        if self.name == "head" and not paths:
            raise FashiontlError(
                f"expected something to compare in {checkout.folder}: the package fashiontl itself, or modules "
                "that [tool.fashiontl] extensions = [...] in its pyproject.toml names; got neither; name them there"
            )
        return Tree(checkout.ref, checkout.commit, checkout.dirty, ", ".join(paths), answer.protocol)

    def lacks(self, cases: Sequence[Case]) -> dict[str, str]:
        """Why cases are not in this tree, by their ids; those that are have no entry."""
        answers = self._identity([asdict(case) for case in cases], None).lacks
        reasons = {}
        for case, lack in zip(cases, answers, strict=True):
            # What this tree has no name for, where that is not at its default.
            unknown = [
                f"{field.name}={getattr(values, field.name)}"
                for kind, values in (("case", case), ("settings", self._settings))
                for field in fields(values)
                if field.name not in self._fields[kind] and getattr(values, field.name) != field.default
            ]
            if lack or unknown:
                reasons[case.id] = lack or f"{self.name} does not know {' and '.join(unknown)}"
        return reasons

    def expand(self, matrix: Mapping[str, Any]) -> list[Case]:
        """The cases that options (as of `Order.matrix`) mean in this tree; none where they name what it does not have.

        Axes that are left empty are not asked about, as this tree may not have them.
        """
        axes = {name: texts for name, texts in matrix["axes"].items() if texts}
        if "weights" in axes:
            axes["weights"] = [anchored(name.strip()) for text in axes["weights"] for name in text.split(",")]
        matrix = {**matrix, "axes": axes, "data_root": _absolute(matrix.get("data_root", ""))}
        known = {field.name for field in fields(Case)}
        found = self._identity([], matrix).matrix
        return [Case(**case) for case in found if case.keys() <= known]

    def run(
        self, phase: Phase[CaseJob, R], case: Case, settings: Settings, progress: Progress, **more: Any
    ) -> Outcome[R]:
        """Run a phase of a case in a fresh process; `more` are fields of its job."""
        job = CaseJob(**self._fields_of_job(case, settings), **more)
        return self._worker.run(phase, job, settings.timeout, progress)

    def ask(self, phase: Phase[J, R], job: J) -> Outcome[R]:
        """Run a phase that is about the machine."""
        return self._worker.run(phase, job, _IDENTITY_SECONDS)

    def turns(self, case: Case) -> "Turns":
        """Begin a fresh process of a case that waits for its turns.

        Raises:
            StoppedError: it cannot begin.
        """
        job = SlicesJob(
            **self._fields_of_job(case, self._settings),
            other=str(self._other.root),
            brief=True,
            warm_up=_WARM_UPS * self._settings.seconds,
        )
        try:
            return Turns(self.name, LiveProcess(self._worker, job, Path(self._pipes.name), self._settings.timeout))
        except FashiontlError as error:
            raise StoppedError(self.name, "crashed", str(error)) from error

    @property
    def _title(self) -> str:
        return f"{self.name} ({self._checkout.ref})"

    def _identity(self, cases: list[dict[str, Any]], matrix: Mapping[str, Any] | None) -> Identity:
        extensions, modules = tuple(self._extensions), tuple(self._modules)
        asked = None if matrix is None else dict(matrix)
        try:
            outcome = self.ask(IDENTITY, IdentityJob(extensions, modules, str(self._other.root), cases, asked))
        except FashiontlError as error:
            outcome = Outcome("crashed", str(error))
        if outcome.result is not None:
            return outcome.result
        if _TOO_OLD.search(outcome.reason):
            raise IncomparableError(
                "NO_BASELINE",
                f"{self._title} has a fashiontl from before the gate, which cannot take part in it: measure from the "
                "next commit on, or name a base that has it",
            )
        step = "fix it" if self.name == "head" else "name a base that can"
        raise IncomparableError("CRASHED", f"{self._title} cannot be imported: {outcome.reason}; {step}")

    def _fields_of_job(self, case: Case, settings: Settings) -> dict[str, Any]:
        """Fields of this tree's jobs, with all paths absolute."""
        return {
            "case": replace(case, weights=anchored(case.weights)),
            "settings": replace(settings, data_root=_absolute(settings.data_root)),
            "cache": str(self._cache),
            "extensions": tuple(self._extensions),
        }


class Turns:
    """A process of an arm that times a slice on command, and sleeps otherwise; use it as a context manager.

    Raises:
        StoppedError: from each method, where the process ended or took too long.
    """

    def __init__(self, arm: Name, process: LiveProcess) -> None:
        self._arm = arm
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._process.close(wait=kind is None)

    def warm(self, metric: str) -> bool:
        """Build what a metric times and warm it up; whether it became steady."""
        with self._stops():
            return bool(self._process.warm(metric)["steady"])

    def slice(self, metric: str) -> tuple[float, bool]:
        """Time one slice: seconds a call, and whether the machine was throttled meanwhile."""
        with self._stops():
            answer = self._process.slice(metric)
        return float(answer["seconds"]), bool(answer["throttled"])

    @contextmanager
    def _stops(self) -> Iterator[None]:
        try:
            yield
        except EndedError as error:
            raise StoppedError(self._arm, failure_kind(error.outcome), error.outcome.reason) from error


def search_path(checkout: Checkout, head: Checkout, inherited: str) -> tuple[list[Path], str]:
    """Where an arm looks for modules: folders of its tree, which come first, and PYTHONPATH.

    What the caller's own path, `inherited`, names in the head's tree is moved into the arm's.
    """
    trees, others = [checkout.folder, checkout.folder / "src"], []
    for text in filter(None, inherited.split(os.pathsep)):
        entry = user_path(text)
        if not entry.is_absolute():
            # The arm begins in its own tree's folder, as the command did in the head's.
            trees.append(checkout.folder / entry)
        elif entry.resolve().is_relative_to(head.root):
            trees.append(checkout.root / entry.resolve().relative_to(head.root))
        else:
            others.append(text)
    kept = [entry for entry in dict.fromkeys(trees) if entry.name != "src" or entry.is_dir()]
    return kept, os.pathsep.join(others)


def _absolute(folder: str) -> str:
    """A folder that is found from anywhere; empty stays empty."""
    return str(user_path(folder).absolute()) if folder else ""


def _extensions(checkout: Checkout, head: Checkout, named: Sequence[str]) -> list[str]:
    """The extensions of a tree: its own, and those named, without the ones that only the head has."""
    here = []
    for name in named:
        path = user_path(name)
        inside = name.endswith(".py") and path.is_absolute() and path.resolve().is_relative_to(head.folder)
        moved = str(path.resolve().relative_to(head.folder)) if inside else name
        if checkout is head or _file(checkout.folder, moved) is not None or _file(head.folder, moved) is None:
            here.append(moved)
    return chosen(here, checkout.folder)


def _file(folder: Path, name: str) -> Path | None:
    """Where a module, or a file by its path, is in a tree."""
    if name.endswith(".py"):
        path = (folder / name).resolve()
        return path if path.is_file() and path.is_relative_to(folder) else None
    parts = Path(*name.split("."))
    files = (start / end for start in (folder, folder / "src") for end in (f"{parts}.py", parts / "__init__.py"))
    return next((file for file in files if file.is_file()), None)
