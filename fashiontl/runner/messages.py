"""What goes into a worker process and what comes out of it: one job and one result for each phase.

Both sides read this module, so it imports no torch. A job reaches the worker as JSON without the fields that are at
their defaults, and a result comes back as JSON; each is checked against its type when it is read.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

from fashiontl.core.case import Case, Settings
from fashiontl.core.metrics import METRICS, Measurement
from fashiontl.records.facts import Proof
from fashiontl.runner.estimate import Work

# Called with what is being done.
Progress = Callable[[str], None]
J = TypeVar("J")
R = TypeVar("R")


class CaseJob(Struct, frozen=True, omit_defaults=True):
    """A phase of a case.

    Attributes:
        case: the cell, on the device on which it is measured.
        settings: how it is run.
        cache: folder of the pretrained backbones.
        extensions: modules and files with the user's own entries, which are loaded first.
        checkpoints: files that pretraining left, by `backbone_name`.
        traces: folder for the profiler's trace.
    """

    case: Case
    settings: Settings
    cache: str = ""
    extensions: tuple[str, ...] = ()
    checkpoints: dict[str, str] = {}
    traces: str = ""


# What `slice` times besides metrics: the reference mix.
REFERENCE = "reference"


def backbone_name(architecture: str, seed: int) -> str:
    """What a checkpoint is filed under: the architecture, and the seed of its pretraining from the second on."""
    return f"{architecture}@{seed}" if seed else architecture


class SlicesJob(CaseJob, frozen=True, omit_defaults=True):
    """A case whose timed calls run slice by slice, at commands.

    Attributes:
        commands: a named pipe whose lines are `warm METRIC` or `slice METRIC`.
        other: folder of the other version's tree, from which nothing may be imported; empty where there is none.
        brief: whether a slice is one block of calls, and a step that of the last epoch, as the gate takes them.
        warm_up: the most seconds of a warm-up; 0 takes the settings' `seconds`.
    """

    commands: str = ""
    other: str = ""
    brief: bool = False
    warm_up: float = 0.0


class ExtraJob(CaseJob, frozen=True, omit_defaults=True):
    """A case in a phase of the user's own; `function` is `module:function`."""

    function: str = ""


class DeviceJob(Struct, frozen=True, omit_defaults=True):
    """A question about a device, by its name; `extensions` as in `CaseJob`."""

    device: str
    extensions: tuple[str, ...] = ()


class PeakJob(DeviceJob, frozen=True, kw_only=True):
    """Which rate of arithmetic to measure, and for how many seconds."""

    seconds: float
    precision: str


class IdentityJob(Struct, frozen=True):
    """What one version of the code is asked about itself.

    Attributes:
        extensions: as in `CaseJob`.
        modules: names of what is under test.
        other: folder of the other version's tree.
        cases: as dictionaries, since the other version may know other fields.
        matrix: arguments of `fashiontl.matrix.options.matrix`, or None.
    """

    extensions: tuple[str, ...]
    modules: tuple[str, ...]
    other: str
    cases: list[dict[str, Any]]
    matrix: dict[str, Any] | None


class PhaseResult(Struct):
    """What a phase of a case found out, as it goes into the record.

    Attributes:
        measurements: raw values, one entry a metric.
        warnings: about the numbers.
        invalid: reasons for which the numbers must not be used.
        proofs: that the policy was kept, one for each network that was trained.
        provenance: what came with the numbers, by the name under which the record keeps it.
        loops: the same where several phases add to one entry: by that name, then by what was timed.
        artifacts: kind of file to its path.
    """

    measurements: list[Measurement] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    loops: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)

    def measure(self, metric: str, values: float | Iterable[float], trials: int = 0) -> None:
        """Add the raw values of a metric, in its base unit; nothing where there are none.

        Args:
            metric: a key of `fashiontl.core.metrics.METRICS`.
            values: one value, or one for each sample or seed.
            trials: for accuracy, how many test images each value is a fraction of.

        Raises:
            KeyError: there is no such metric.
        """
        found = (values,) if isinstance(values, int | float) else tuple(values)
        if found:
            self.measurements.append(Measurement(METRICS[metric].name, found, trials))

    def measure_all(self, values: Mapping[str, float]) -> None:
        """Add one value for each metric."""
        for metric, value in values.items():
            self.measure(metric, value)

    def measurement(self, metric: str) -> Measurement | None:
        """What was measured of a metric, if it was."""
        return next((each for each in self.measurements if each.metric == metric), None)

    def values(self, metric: str) -> tuple[float, ...]:
        """The raw values of a metric; empty where it was not measured."""
        found = self.measurement(metric)
        return found.values if found else ()


class Pretraining(PhaseResult):
    """Backbones that were found or made; `checkpoints` are their files, by `backbone_name`."""

    checkpoints: dict[str, str] = field(default_factory=dict)


class Training(PhaseResult):
    """A case trained and tested with each seed.

    Attributes:
        answers: for each seed the SHA-256 of the predicted classes.
        right: for each seed a `1` for each test image whose class was predicted and a `0` for each other, in order.
    """

    answers: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)


class DeviceFacts(Struct, frozen=True):
    """Whether a device can be used, and what it is.

    Attributes:
        unavailable: why not; empty when it can.
        facts: its name and the versions of its driver and libraries.
    """

    unavailable: str = ""
    facts: dict[str, str | None] = {}


class VariantSupport(Struct, frozen=True):
    """Whether a device can run a case as its variant says: why not (empty when it can), and warnings."""

    unavailable: str = ""
    warnings: list[str] = []


class Identity(Struct, frozen=True):
    """What one version of the code says of itself.

    Attributes:
        version: of fashiontl.
        protocol: of its measurements; numbers of different ones cannot be compared.
        torch: its version.
        modules: the file of each module under test.
        lacks: for each case why it is not here; None where it is.
        matrix: the cases that the options mean here.
        fields: names that cases and settings have here.
        strangers: files of the other tree that were imported.
    """

    version: str
    protocol: int
    torch: str
    modules: dict[str, str | None]
    lacks: list[str | None]
    matrix: list[dict[str, Any]]
    fields: dict[str, list[str]]
    strangers: list[str]


@dataclass(frozen=True)
class Phase(Generic[J, R]):
    """One phase.

    Attributes:
        name: for messages.
        job: what it takes.
        result: what it returns.
        function: of the phases' module; empty where that has the phase's name.
    """

    name: str
    job: type[J]
    result: type[R]
    function: str = ""


PRETRAIN = Phase("pretrain", CaseJob, Pretraining)
TRAIN = Phase("train", CaseJob, Training)
INFERENCE = Phase("inference", CaseJob, PhaseResult)
STEP = Phase("step", CaseJob, PhaseResult)
SWEEP = Phase("sweep", CaseJob, PhaseResult)
PROFILE = Phase("profile", CaseJob, PhaseResult)
COUNT = Phase("count", CaseJob, Work)
VARIANT = Phase("variant", CaseJob, VariantSupport)
SLICES = Phase("slices", SlicesJob, PhaseResult)
DEVICE = Phase("device", DeviceJob, DeviceFacts)
PEAK = Phase("peak", PeakJob, dict[str, float])
IDENTITY = Phase("identity", IdentityJob, Identity)
