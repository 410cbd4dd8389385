"""The entries of a record's proof and provenance that reports read. Others are kept as they are and not looked at."""

from typing import Annotated, Any

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**53)]
_Positive = Annotated[int, Meta(ge=1, le=2**31)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]
_Seconds = Annotated[float, Meta(ge=1e-12, le=1e9)]


class Proof(Struct, frozen=True):
    """`fashiontl.freezing.proof.PolicyProof`, which older records hold in part."""

    holds: bool = False
    frozen_parameters: Count = 0
    frozen_buffers: Count = 0
    trained_parameters: Count = 0
    unmoved: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()


class Source(Struct, frozen=True):
    """Where data or weights came from; `accuracy` is that of pretrained weights on their own task."""

    name: str = ""
    source: str = ""
    sha256: str | None = None
    accuracy: _Fraction | None = None


class Validation(Struct, frozen=True):
    """One seed's accuracies on validation images, an epoch each, and the epoch (from 0) that they chose."""

    accuracies: tuple[float, ...] = ()
    chosen: Count | None = None


class Evaluation(Struct, frozen=True):
    """One seed's answers on the test images: `confusion[label][answer]` counts images; the loss is in nats.

    `right` says which images were right, as `fashiontl.core.accuracy.Accuracies.of` reads it; empty in older records.
    """

    confusion: tuple[tuple[Count, ...], ...] | None = None
    loss: Annotated[float, Meta(ge=0, le=1e39)] | None = None
    calibration_error: _Fraction | None = None
    right: Annotated[str, Meta(pattern="^[0-9a-f]*$")] = ""


class Loop(Struct, frozen=True):
    """How a timing loop went: why it ended, whether it became steady, how many samples throttling spoiled."""

    ended: str = ""
    steady: bool = True
    throttled: Count = 0


class Graphs(Struct, frozen=True):
    """What the compiler made."""

    graphs: Count | None = None
    graph_breaks: Count = 0
    recompiles: Count = 0


class Point(Struct, frozen=True):
    """One batch size of a sweep, and the seconds of each call."""

    batch: _Positive
    seconds: Annotated[tuple[_Seconds, ...], Meta(min_length=1)]


class Sweep(Struct, frozen=True):
    """Batch sizes that ran, the largest, and why there is no larger one."""

    points: tuple[Point, ...] = ()
    largest: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    limit: str = ""


class Periods(Struct, frozen=True):
    """The training step of a policy that changes over the epochs, for each of its plans."""

    each: tuple[dict[str, Any], ...] = ()


class Facts(Struct, frozen=True):
    """Entries of a record's provenance. Old records lack most; a default means unknown.

    Attributes:
        pretraining: of weights that were pretrained here.
        image_size: side in pixels that was used, if it had to be larger than asked for.
        validation: of each seed; None where no images were carved out.
        deterministic: whether the same seed gives identical weights on the same machine and versions.
        extensions: SHA-256 of each module of the user's own.
        peak: measured peak in FLOP/s of each kind of operator.
        compile, sweep: by phase, `inference` or `training`.
        evaluation: of each seed.
        timing: of each timing loop, by its metric.
    """

    data: Source = Source()
    weights: Source = Source()
    pretraining: Source = Source()
    image_size: Annotated[int, Meta(ge=1, le=2**16)] | None = None
    validation: tuple[Validation | None, ...] = ()
    deterministic: bool | None = None
    extensions: dict[str, str] = {}
    peak: dict[str, Annotated[float, Meta(ge=0, le=1e18)]] = {}
    compile: dict[str, Graphs] = {}
    evaluation: tuple[Evaluation, ...] = ()
    sweep: dict[str, Sweep] = {}
    timing: dict[str, Loop] = {}
    periods: Periods = Periods()
