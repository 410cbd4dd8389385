"""What a gate measured, and its file: all that a verdict is computed from, and nothing computed. No torch."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from fashiontl.core.errors import FashiontlError, no_file, unwritable
from fashiontl.core.files import write_atomically
from fashiontl.core.parsing import check_schema, decode

# Raised when a field changes its name or meaning, or slices are taken in another way.
SCHEMA = 3

Arm = Literal["base", "head"]
Stage = Literal["screen", "confirm"]
FailureKind = Literal["missing", "crashed", "timeout", "oom"]
_Count = Annotated[int, Meta(ge=0)]
_Seconds = Annotated[float, Meta(ge=0)]

# Names of schemas 1 and 2. Schema 1 did not state what was asked for either.
_FORMER_NAMES = {
    "epochs": "trials",
    "control_base": "reference_base",
    "control_head": "reference_head",
    "control": "reference",
    "doubts": "warnings",
    "untold": "unavailable",
}
_OF_OTHERS = {"settings", "environment"}


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Trial(_Part, frozen=True):
    """A fresh process of each arm, taking turns: the unit of replication.

    Attributes:
        stage: whether it was taken to find suspects, or to confirm one.
        first: the arm that began, drawn at random; turns go ABBA.
        base: seconds a call of each slice of the base arm, in the order of time; `head` has as many.
        reference_base: seconds of the reference kernel after each of the base arm's slices.
    """

    stage: Stage
    first: Arm
    base: tuple[float, ...]
    head: tuple[float, ...]
    reference_base: tuple[float, ...]
    reference_head: tuple[float, ...]


class Series(_Part, frozen=True):
    """The trials of one cell and one timed metric, in the order of time; seconds also where that is a throughput.

    Attributes:
        images: of a call, by which seconds become images per second.
    """

    cell: str
    metric: str
    trials: tuple[Trial, ...]
    images: Annotated[int, Meta(ge=1)] = 1


class Counts(_Part, frozen=True):
    """A number that is not timed (parameters, FLOPs, memory), one value from each fresh process of each arm."""

    cell: str
    metric: str
    base: tuple[float, ...]
    head: tuple[float, ...]


class SeedPair(_Part, frozen=True):
    """One seed trained in both arms, on the same images in the same order, and tested on the same images.

    Attributes:
        weights_base: SHA-256 of the trained weights.
        right_base: for each test image `1` where the answer was right and `0` where not, in the order of the images.
        answers_base: SHA-256 of the predicted classes.
    """

    seed: int
    weights_base: str
    weights_head: str
    right_base: str
    right_head: str
    answers_base: str
    answers_head: str


class Answers(_Part, frozen=True):
    """The paired seeds of one cell, and the number of images on which each was tested (0: not kept)."""

    cell: str
    seeds: tuple[SeedPair, ...]
    images: _Count = 0


class Unavailable(_Part, frozen=True):
    """A metric that neither arm reports for a cell, such as FLOPs of an unknown operator: it is not judged."""

    cell: str
    metric: str


class Failure(_Part, frozen=True):
    """A cell that could not be measured in an arm; `missing` when the arm does not have it."""

    cell: str
    arm: Arm
    kind: FailureKind
    reason: str


class Tree(_Part, frozen=True):
    """What an arm ran.

    Attributes:
        ref: as it was asked for; `working tree` for the head.
        commit: full SHA-1, None outside of git.
        dirty: whether tracked files differ from the commit.
        module: path of the module under test that the arm really imported, relative to its tree.
        protocol: of the arm's measuring code.
    """

    ref: str
    commit: str | None
    dirty: bool
    module: str
    protocol: int


class Asked(_Part, frozen=True):
    """What a gate was asked to measure: less than this is no comparison.

    Attributes:
        cells: ids, of the head and of the base.
        processes: of each arm that count a cell, by its id.
        slices: of each arm in a trial, at least.
        seeds: that are trained where the first one's answers differ; 0 where none are.
        settings: `fashiontl.core.case.Settings` as a dictionary.
        base: full SHA-1 of the base, None outside of git.
        thresholds: as `fashiontl.gate.sequential.thresholds` gave them.
    """

    cells: tuple[str, ...]
    metrics: tuple[str, ...]
    processes: dict[str, _Count]
    slices: _Count
    seeds: _Count
    settings: dict[str, Any]
    base: str | None
    head: str | None
    thresholds: dict[str, Any]


class Raw(_Part, frozen=True):
    """A whole gate.

    Attributes:
        started: ISO 8601 in UTC.
        environment: `fashiontl.machine.environment.Environment` as a dictionary.
        cells: ids of the cells that were asked for and that the head has.
        new: ids that only the head has: listed, not judged.
        removed: ids that only the base has.
        budget: the most seconds that the gate was given; 0 is no limit.
        asked: what was to be measured; None where that is not known, as in files of schema 1.
        unavailable: what neither arm could report.
        interrupted: whether a key ended it before it had all that it wanted.
    """

    schema: int
    started: str
    seconds: _Seconds
    command: str
    machine: str
    environment: dict[str, Any]
    base: Tree
    head: Tree
    cells: tuple[str, ...]
    new: tuple[str, ...]
    removed: tuple[str, ...]
    budget: _Seconds
    series: tuple[Series, ...]
    counts: tuple[Counts, ...]
    answers: tuple[Answers, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    asked: Asked | None = None
    unavailable: tuple[Unavailable, ...] = ()
    interrupted: bool = False


def to_json(raw: Raw) -> bytes:
    """All of a gate as one line of JSON.

    Raises:
        FashiontlError: a number in it is not finite, which JSON cannot hold.
    """
    text = msgspec.json.encode(raw) + b"\n"
    from_json(text, "what the gate measured, a defect of fashiontl")
    return text


def from_json(data: bytes, where: str) -> Raw:
    """Parse what this version or an earlier one wrote; `where` is the file, for messages.

    Raises:
        FashiontlError: as `fashiontl.core.parsing.decode`, or the schema is a later one.
    """
    if check_schema(data, range(1, SCHEMA + 1), where) < SCHEMA:
        try:
            data = msgspec.json.encode(_renamed(msgspec.json.decode(data)) | {"schema": SCHEMA})
        except RecursionError as error:
            raise FashiontlError(f"{where}: expected a gate's JSON, got too many levels of nesting") from error
    return decode(data, Raw, where)


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _FORMER_NAMES.get(name, name): item if name in _OF_OTHERS else _renamed(item)
            for name, item in value.items()
        }
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def write(raw: Raw, path: Path) -> None:
    """Write the file whole or not at all; raises as `write_file` and `to_json`."""
    write_file(path, to_json(raw))


def write_file(path: Path, contents: bytes) -> None:
    """Write a file of the gate's whole or not at all.

    Raises:
        FashiontlError: it cannot be written.
    """
    try:
        write_atomically(path, contents)
    except OSError as error:
        raise FashiontlError(unwritable(path, error)) from error


def read(path: Path) -> Raw:
    """Read a file; raises FashiontlError where that cannot be done, or as `from_json`."""
    return from_json(read_file(path, "a gate's JSON", "name another file"), str(path))


def read_file(path: Path, what: str, step: str) -> bytes:
    """Contents of a file; waits for no named pipe.

    Raises:
        FashiontlError: it cannot be read; `what` was expected, and `step` is what to do.
    """
    try:
        if kind := no_file(path):
            raise FashiontlError(f"{path}: expected {what}, got {kind}; {step}")
        return path.read_bytes()
    except OSError as error:
        raise FashiontlError(f"{path}: expected {what}, got: {error.strerror}; {step}") from error
