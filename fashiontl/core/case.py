"""One cell of the matrix: its identity (`Case`), how it is run (`Settings`), and named presets of the latter."""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from fashiontl.core.errors import FashiontlError, brief, unknown_name
from fashiontl.core.escape import to_file_name

# What `pytest bench/` runs when an axis is not named.
DEFAULT_ARCHITECTURES = ("vgg11", "resnet18", "mobilenet_v2", "densenet121")
DEFAULT_POLICIES = ("scratch", "linear_probe", "last_stage", "full", "bn_only")
DEFAULT_TASK = "fashion4"

# The axes of how a network is run, besides image size and batch; the first of each is the default.
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
MEMORY_FORMATS = ("contiguous", "channels_last")
EXECUTIONS = ("eager", "compile", "cuda_graphs")

# The default of `Settings.allocator`.
PINNED = "pinned"


def default_weights(policy: str, task: str) -> str:
    """The weights that a case starts from when none are named.

    `fashion6` backbones were trained on the six classes that `fashion4` lacks, so they are a fair source for that task
    alone, with few images (`fashion4@25`) or many; every other task starts from ImageNet.
    """
    if policy == "scratch":
        return "none"
    return "fashion6" if task.partition("@")[0] == "fashion4" else "imagenet"


def is_published(weights: str) -> bool:
    """Whether weights are asked for by a name under which they were published, such as `IMAGENET1K_V2`."""
    return weights == "imagenet" or weights.startswith("IMAGENET1K_")


# The most that numbers may be is beyond what anyone needs, and within what clocks, memory and arithmetic can do: a
# timeout must fit into what the system waits for.
LARGEST_IMAGE, LARGEST_BATCH = 4096, 10**6
_Count = Annotated[int, Meta(ge=1, le=10**6)]
_PerClass = Annotated[int, Meta(ge=0, le=10**7)]


@dataclass(frozen=True, order=True)
class Case:
    """What is measured: names and sizes only, so that a case is a pytest id, a record's key and a leaderboard's row.

    Attributes:
        architecture: a name that `fashiontl.models.registry.check_name` takes.
        policy: a name in `fashiontl.freezing.POLICIES`.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`.
        task: a name that `fashiontl.data.find_task` knows.
        weights: `none`, `imagenet` or a published name such as `IMAGENET1K_V1`, `fashion6`, or the path of a
            checkpoint or of a folder of checkpoints; empty takes `default_weights`.
        precision: `fp32`; `tf32`, float32 whose products and convolutions may round to TF32; `bf16` and `fp16`, in
            which training runs under autocast and inference with weights of that type.
        memory_format: of images and weights, `contiguous` or `channels_last`.
        execution: `eager`; `compile` for `torch.compile` in what is timed; or `cuda_graphs` for its mode
            `reduce-overhead`, which replays a network's kernels as CUDA graphs.
        image_size: side in pixels; 0 takes that of the settings.
        batch: images a step in the throughput measurements; 0 takes that of the settings.
    """

    architecture: str
    policy: str
    device: str = "cpu"
    task: str = DEFAULT_TASK
    weights: str = ""
    precision: str = PRECISIONS[0]
    memory_format: str = MEMORY_FORMATS[0]
    execution: str = EXECUTIONS[0]
    image_size: Annotated[int, Meta(ge=0, le=LARGEST_IMAGE)] = 0
    batch: Annotated[int, Meta(ge=0, le=LARGEST_BATCH)] = 0

    def __post_init__(self) -> None:
        # A model from scratch has no weights to start from, so the two axes cannot contradict each other.
        if not self.weights or self.policy == "scratch":
            object.__setattr__(self, "weights", default_weights(self.policy, self.task))

    @property
    def id(self) -> str:
        """The case's name; an axis at its default stays out of it.

        >>> Case("resnet18", "full", "cuda:1", task="fashion10", weights="none", precision="bf16", image_size=64).id
        'resnet18-full-cuda:1-fashion10-none-bf16-64px'
        """
        parts = [self.architecture, self.policy, self.device]
        if self.task != DEFAULT_TASK:
            parts.append(self.task)
        if self.weights != default_weights(self.policy, self.task):
            parts.append(PurePath(self.weights).name)
        return "-".join([*parts, *self.variant])

    @property
    def variant(self) -> tuple[str, ...]:
        """What of the axes beyond architecture, policy, device, task and weights is not at its default."""
        parts = {
            self.precision: self.precision != PRECISIONS[0],
            self.memory_format: self.memory_format != MEMORY_FORMATS[0],
            self.execution: self.execution != EXECUTIONS[0],
            f"{self.image_size}px": self.image_size,
            f"batch{self.batch}": self.batch,
        }
        return tuple(itertools.compress(parts, parts.values()))

    @property
    def file_name(self) -> str:
        """The id as a file's name."""
        return to_file_name(self.id)


@dataclass(frozen=True)
class Settings:
    """How a case is run. Every field can be overridden with `--set name=value`.

    Records from before a field existed are read with its default: a new field's default must mean what was done then.

    Attributes:
        preset: the preset that these settings started from.
        data: `embedded` (the set in the package) or `original` (the 70,000 images).
        data_root: folder of the original images; empty searches the known places.
        image_size: side of the square that images are padded (to 32 pixels) or resized to.
        train_per_class: training images a class, drawn with the seed; 0 takes all.
        test_per_class: test images a class, the first of each; 0 takes all.
        validation_per_class: images of each class carved out of the training images, the same for every seed; the epoch
            with the best accuracy on them is kept. 0 carves none and keeps the last epoch.
        recipe: `tuned` (`fashiontl.training.recipes` gives its numbers), or, as tutorials train, `naive_adam` (Adam,
            1e-3) or `naive_sgd` (SGD, 0.1), each at a constant learning rate, without weight decay or label smoothing.
        lr: peak learning rate of the head in place of the recipe's, for every policy; 0 takes the recipe's.
        seeds: how many seeds (0, 1, ...) each case is trained with.
        epochs: passes over the training images.
        augment: whether training images are flipped and shifted at random; then a frozen prefix runs at each step.
        batch_size: images a training step.
        pretrain_per_class: images of each source class for the `fashion6` backbone; 0 takes all.
        pretrain_epochs: passes over them.
        pretrain_batch_size: images a step there.
        pretrain_seeds: how many `fashion6` backbones there are, each of a seed of its own (0, 1, ...): a case's seed i
            starts from the backbone i modulo their number. With 1 all seeds share a backbone, and intervals are for
            that one alone.
        throughput_batch: images a step in the throughput measurements.
        accuracy: whether the case is trained and tested; without it only speed, memory and arithmetic are measured.
        sweep: the largest batch of the sweep over batch sizes, which doubles from 1 until then, or until memory or
            time is full, on a CPU until 512; 0 makes none.
        samples: latency samples that a cell should have; the 99th percentile takes 1,000.
        processes: the fewest processes, each of a server of its own, that time a cell.
        half_width: what is precise enough: half of the 95 % interval over the estimate.
        budget: the most seconds of slices and warm-ups that a cell and metric may take to become precise; the
            few slices that each of its processes takes in any case come before it.
        spacing: the fewest seconds from one slice of a cell and metric to its next.
        seconds: the longest warm-up of a call in a process; time budget of a point of the sweep, of the measured peak,
            and of energy.
        timeout: the longest that one phase of a case may take, in seconds.
        threads: CPU threads of a worker; 0 takes one for each physical core that this process may use, within the
            quota and OMP_NUM_THREADS.
        allocator: of CPU memory in what is timed: `pinned`, the C library's with thresholds that it does not move;
            `default`, as a plain script has it; or the path of a library to preload, such as jemalloc's. Peaks of
            memory are always read with the C library's, whose thresholds then are its initial ones.
        profile: whether the profiler runs, in a pass of its own.
    """

    preset: str = "quick"
    data: Literal["embedded", "original"] = "embedded"
    data_root: str = ""
    image_size: Annotated[int, Meta(ge=1, le=LARGEST_IMAGE)] = 32
    train_per_class: _PerClass = 5
    test_per_class: _PerClass = 200
    validation_per_class: _PerClass = 0
    recipe: Literal["tuned", "naive_adam", "naive_sgd"] = "tuned"
    lr: Annotated[float, Meta(ge=0, le=1e30)] = 0.0
    seeds: Annotated[int, Meta(ge=1, le=10**4)] = 1
    epochs: _Count = 10
    augment: bool = False
    batch_size: _Count = 10
    pretrain_per_class: _PerClass = 250
    pretrain_epochs: _Count = 3
    pretrain_batch_size: _Count = 50
    pretrain_seeds: Annotated[int, Meta(ge=1, le=100)] = 1
    throughput_batch: Annotated[int, Meta(ge=1, le=LARGEST_BATCH)] = 32
    accuracy: bool = True
    sweep: Annotated[int, Meta(ge=0, le=LARGEST_BATCH)] = 0
    samples: Annotated[int, Meta(ge=1, le=10**7)] = 200
    processes: Annotated[int, Meta(ge=1, le=1000)] = 1
    half_width: Annotated[float, Meta(ge=1e-3, le=1)] = 0.05
    budget: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    spacing: Annotated[float, Meta(ge=0, le=600)] = 0.0
    seconds: Annotated[float, Meta(ge=1e-3, le=86400)] = 0.4
    timeout: Annotated[float, Meta(ge=1e-3, le=30 * 86400)] = 600.0
    threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    allocator: str = PINNED
    profile: bool = True

    @property
    def backbones(self) -> int:
        """How many backbones of one architecture a case starts from: without training, from the first alone."""
        return min(self.seeds, self.pretrain_seeds) if self.accuracy else 1


# Names of settings in older records, which are read as these.
OLD_SETTINGS = {"rate": "lr"}


PRESETS: dict[str, Settings] = {
    # Only for tests: every phase runs, nothing is learned.
    "smoke": Settings(
        "smoke", train_per_class=4, test_per_class=5, epochs=1, batch_size=8, pretrain_per_class=4, pretrain_epochs=1,
        throughput_batch=2, samples=5, seconds=0.05, timeout=120.0,
    ),
    # The default: few images a class, because that is where transfer pays; sized so that 20 cells and the
    # pretraining of 4 backbones take some 13 minutes on two CPU cores.
    "quick": Settings(seeds=3, processes=3, budget=8.0, spacing=1.5),
    # All of Fashion-MNIST at a size at which ImageNet backbones work; meant for a GPU.
    "full": Settings(
        "full", data="original", image_size=128, train_per_class=0, test_per_class=0, seeds=3, epochs=5, augment=True,
        batch_size=128, pretrain_per_class=0, pretrain_epochs=5, pretrain_batch_size=128, pretrain_seeds=3,
        throughput_batch=128, sweep=4096, samples=1000, processes=5, half_width=0.03, budget=60.0, spacing=1.5,
        seconds=5.0, timeout=7200.0,
    ),
    # The two networks and the training that people have met in a widely read tutorial.
    "tutorial": Settings(
        "tutorial", data="original", train_per_class=0, test_per_class=0, recipe="naive_adam", epochs=20,
        batch_size=32, samples=1000, seeds=3, processes=5, half_width=0.03, budget=60.0, spacing=1.5, seconds=5.0,
        timeout=86400.0,
    ),
}  # fmt: skip


# What a preset runs of an axis when none is named, where that is not the default.
PRESET_TASKS = {"full": "fashion10", "tutorial": "fashion10"}
PRESET_ARCHITECTURES = {"tutorial": ("tutorial_vgg", "resnet50")}
PRESET_POLICIES = {"tutorial": ("scratch",)}


def expand(
    architectures: Sequence[str],
    policies: Sequence[str],
    devices: Sequence[str],
    tasks: Sequence[str],
    weights: Sequence[str] = ("",),
    **variants: Sequence[Any],
) -> list[Case]:
    """Every combination of the axes, each once; `variants` are the other fields of `Case`.

    Cells of one architecture and task stand together, so that a pretrained backbone is used while it is warm.

    Raises:
        FashiontlError: two different cases would have one id.
    """
    product = itertools.product(devices, tasks, architectures, policies, weights, *variants.values())
    cases = list(
        dict.fromkeys(
            Case(a, p, device, task, w, **dict(zip(variants, values, strict=True)))
            for device, task, a, p, w, *values in product
        )
    )
    by_id: dict[str, Case] = {}
    for case in cases:
        if case != by_id.setdefault(case.id, case):
            raise FashiontlError(
                f"two cases would be called {case.id}: weights {by_id[case.id].weights!r} and {case.weights!r}; "
                "rename one of the files"
            )
    return cases


def override(settings: Settings, assignments: list[str]) -> Settings:
    """Apply `name=value` texts to settings; a FashiontlError lists all errors."""
    kinds = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    errors: list[str] = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            errors.append(f"expected name=value, got {assignment!r}")
        elif name not in kinds or name == "preset":
            errors.append(unknown_name("setting", name, set(kinds) - {"preset"}))
        else:
            try:
                values[name] = parse_text(text, kinds[name])
            except ValueError as error:
                errors.append(f"setting {name}: {error}")
    try:
        values |= {name: checked_allocator(values[name]) for name in ("allocator",) if name in values}
    except ValueError as error:
        errors.append(f"setting allocator: {error}")
    if errors:
        raise FashiontlError("\n".join(errors))
    return dataclasses.replace(settings, **values)


def checked_allocator(name: str) -> str:
    """What `Settings.allocator` says, a path made absolute; a ValueError says what was expected and got.

    The system's linker goes on without a library that it cannot preload, and the numbers would be another allocator's.
    """
    if name in (PINNED, "default"):
        return name
    wanted = "pinned, default or the path of a library to preload"
    if sys.platform != "linux":
        raise ValueError(f"expected pinned or default on {sys.platform}, got {brief(name)}; only Linux preloads")
    path = Path(name).absolute()
    try:
        with path.open("rb") as file, Path(sys.executable).open("rb") as interpreter:
            head, own = file.read(20), interpreter.read(20)
    except OSError as error:
        raise ValueError(f"expected {wanted}, got {brief(name)}: {error.strerror}") from None
    # Of an ELF header: magic number, word size and byte order; then type (3 is a shared object) and machine; elf(5).
    if (head[:6], head[18:]) != (own[:6], own[18:]) or 3 not in head[16:18]:
        raise ValueError(f"expected {wanted}, got {brief(name)}, which is no shared library for this Python")
    if any(each in str(path) for each in ": \t\n"):
        raise ValueError(f"expected a path without spaces and colons, got {brief(name)}; make a link to it elsewhere")
    return str(path)


def parse_text(text: str, kind: Any) -> Any:
    """A text of a command line as a type with its constraints; a ValueError says what was expected and got."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ValueError(f"expected {_described(kind)}, got {brief(text)}") from None


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        *most, last = get_args(kind)
        return f"{', '.join(most)} or {last}"
    if get_origin(kind) is Annotated:
        number, meta = get_args(kind)
        return f"{'a whole number' if number is int else 'a number'} from {meta.ge:,} to {meta.le:,}"
    return "true or false"
