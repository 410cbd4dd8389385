"""What a gate measured: all that a verdict is computed from, and nothing computed. No torch."""

from dataclasses import dataclass
from typing import Literal

# Raised when a field changes its meaning, or slices are taken in another way.
SCHEMA = 2

Arm = Literal["base", "head"]
Stage = Literal["screen", "confirm"]


@dataclass(frozen=True)
class Epoch:
    """A fresh pair of processes, one an arm, that took turns: the unit of replication.

    Attributes:
        stage: whether it was taken to find suspects, or to confirm one.
        first: the arm that began, drawn at random; turns go ABBA.
        base: seconds a call of each slice of the base arm, in the order of time.
        head: the same of the head arm, as many.
        control_base: seconds of the control kernel after each of the base arm's slices.
        control_head: the same after the head arm's.
    """

    stage: Stage
    first: Arm
    base: tuple[float, ...]
    head: tuple[float, ...]
    control_base: tuple[float, ...]
    control_head: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """The epochs of one cell and one timed metric, in the order of time.

    Attributes:
        cell: id of the case.
        metric: `latency`, `inference_throughput` or `train_throughput`; epochs hold seconds whichever it is.
        epochs: at least one.
        images: of a call, by which seconds become images per second.
    """

    cell: str
    metric: str
    epochs: tuple[Epoch, ...]
    images: int = 1


@dataclass(frozen=True)
class Counts:
    """A number that is not timed, as repeated fresh processes of each arm gave it.

    Attributes:
        cell: id of the case.
        metric: a key of `fashiontl.core.metrics.METRICS`: parameters, FLOPs, memory.
        base: one value a process.
        head: the same of the head arm.
    """

    cell: str
    metric: str
    base: tuple[float, ...]
    head: tuple[float, ...]


@dataclass(frozen=True)
class SeedPair:
    """One seed trained in both arms, on the same images in the same order, and tested on the same images.

    Attributes:
        seed: its number.
        weights_base: SHA-256 of the trained weights.
        weights_head: the same of the head arm.
        right_base: for each test image `1` where the answer was right and `0` where not, in the order of the images.
        right_head: the same of the head arm.
        answers_base: SHA-256 of the predicted classes.
        answers_head: the same of the head arm.
    """

    seed: int
    weights_base: str
    weights_head: str
    right_base: str
    right_head: str
    answers_base: str
    answers_head: str


@dataclass(frozen=True)
class Answers:
    """The paired seeds of one cell.

    Attributes:
        cell: id of the case.
        seeds: one or more.
        images: on which each was tested; 0 where that was not kept.
    """

    cell: str
    seeds: tuple[SeedPair, ...]
    images: int = 0


@dataclass(frozen=True)
class Untold:
    """A metric that neither arm tells of a cell, such as FLOPs of an operator that nobody counts: it is not judged."""

    cell: str
    metric: str


@dataclass(frozen=True)
class Failure:
    """A cell that could not be measured in an arm.

    Attributes:
        cell: id of the case.
        arm: in which it failed.
        kind: `missing` when the arm does not have the cell, `crashed`, `timeout`, `oom`.
        reason: in a sentence.
    """

    cell: str
    arm: Arm
    kind: Literal["missing", "crashed", "timeout", "oom"]
    reason: str


@dataclass(frozen=True)
class Tree:
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


@dataclass(frozen=True)
class Asked:
    """What a gate was asked to measure: less than this is no comparison.

    Attributes:
        cells: ids, of the head and of the base.
        metrics: by which each of them is judged.
        processes: of each arm that count a cell, by its id.
        slices: of each arm in an epoch, at least.
        seeds: that are trained where the first one's answers differ; 0 where none are.
        settings: `fashiontl.core.case.Settings` as a dictionary.
        base: full SHA-1 of the base, None outside of git.
        head: the same of the head.
        thresholds: as `fashiontl.gate.sequential.thresholds` gave them.
    """

    cells: tuple[str, ...]
    metrics: tuple[str, ...]
    processes: dict[str, int]
    slices: int
    seeds: int
    settings: dict[str, object]
    base: str | None
    head: str | None
    thresholds: dict[str, object]


@dataclass(frozen=True)
class Raw:
    """A whole gate.

    Attributes:
        schema: `SCHEMA`.
        started: ISO 8601 in UTC.
        seconds: how long it took.
        command: what was typed.
        machine: key of the machine.
        environment: `fashiontl.machine.environment.Environment` as a dictionary.
        base: what was compared with.
        head: what was compared.
        cells: ids of the cells that were asked for and that the head has.
        new: ids that only the head has: listed, not judged.
        removed: ids that only the base has.
        budget: the most seconds that the gate was given; 0 is no limit.
        series: of the timed metrics.
        counts: of the others.
        answers: paired seeds.
        failures: what could not be measured.
        doubts: about the machine, for the report.
        asked: what was to be measured; None where that is not known, as of files of schema 1.
        untold: what none of the arms could tell.
        interrupted: whether a key ended it before it had all that it wanted.
    """

    schema: int
    started: str
    seconds: float
    command: str
    machine: str
    environment: dict[str, object]
    base: Tree
    head: Tree
    cells: tuple[str, ...]
    new: tuple[str, ...]
    removed: tuple[str, ...]
    budget: float
    series: tuple[Series, ...]
    counts: tuple[Counts, ...]
    answers: tuple[Answers, ...]
    failures: tuple[Failure, ...]
    doubts: tuple[str, ...]
    asked: Asked | None = None
    untold: tuple[Untold, ...] = ()
    interrupted: bool = False
