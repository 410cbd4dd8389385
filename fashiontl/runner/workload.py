"""What the phases of a case work on: its networks, its images, and a training step."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError, SkippedError
from fashiontl.data import Task, find_task
from fashiontl.data.select import select
from fashiontl.data.sources import load_task_images
from fashiontl.freezing import POLICIES, Plan, unavailable_reason
from fashiontl.freezing.apply import apply
from fashiontl.freezing.lora import prepare
from fashiontl.freezing.policies import ADAPTERS
from fashiontl.machine.devices import Device
from fashiontl.matrix import extensions
from fashiontl.models.build import outline
from fashiontl.models.ensembles import MeanOfProbabilities
from fashiontl.models.network import Network
from fashiontl.models.registry import fitting_size, members, trained_separately
from fashiontl.models.weights.start import Start, start
from fashiontl.runner.messages import CaseJob, backbone_name
from fashiontl.timing.variants import Variant
from fashiontl.training.fit import Examples, is_normalised, new_optimizer
from fashiontl.training.recipes import recipe_for
from fashiontl.training.step import TrainingStep


@dataclass(frozen=True)
class Workload:
    """A case as a phase sees it.

    Attributes:
        case: the cell.
        settings: how, at an image size that the architecture takes and with the case's own batch.
        task: the case's.
        checkpoints: files that pretraining left, by `backbone_name`.
    """

    case: Case
    settings: Settings
    task: Task
    checkpoints: dict[str, Path]

    @classmethod
    def of(cls, job: CaseJob) -> "Workload":
        """Read a job; the user's own entries are loaded first.

        Raises:
            FashiontlError: a name that no table has.
        """
        extensions.load(job.extensions)
        case, settings = job.case, job.settings
        size = fitting_size(case.architecture, case.image_size or settings.image_size)
        batch = case.batch or settings.throughput_batch
        checkpoints = {name: Path(path) for name, path in job.checkpoints.items()}
        settings = replace(settings, image_size=size, throughput_batch=batch)
        return cls(case, settings, find_task(case.task), checkpoints)

    @property
    def device(self) -> Device:
        """Where it runs."""
        return Device.of(self.case.device)

    @property
    def variant(self) -> Variant:
        """How the case's networks are run."""
        return Variant.of(self.case)

    @property
    def eagerly(self) -> "Workload":
        """The same without a compiler, for what cannot look into compiled code."""
        return replace(self, case=replace(self.case, execution="eager"))

    def members(self) -> list[Case]:
        """The cases whose networks are trained each on its own: this one, or those of a hybrid's members."""
        return [replace(self.case, architecture=name) for name in trained_separately(self.case.architecture)]

    def outlines(self) -> list[Network]:
        """Every member's network without its weights, to be asked what it is made of before anything else is done.

        Raises:
            SkippedError: as `check`.
        """
        bare = [replace(member, weights="none") for member in self.members()]
        return [outline(partial(self._build, member)) for member in bare]

    def _build(self, member: Case) -> Network:
        network = start(member, self.settings.image_size).network
        self.check(network)
        return network

    def start(self, member: Case, seed: int = 0) -> Start:
        """A member's network before training with a seed, on the device.

        Raises:
            SkippedError: as `check`.
        """
        backbone = seed % self.settings.backbones
        names = members(member.architecture) or (member.architecture,)
        files = {name: self.checkpoints.get(backbone_name(name, backbone)) for name in names}
        found = {name: file for name, file in files.items() if file}
        initial = start(member, self.settings.image_size, found)
        self.check(initial.network)
        return replace(initial, network=initial.network.to(self.case.device))

    def starts(self) -> list[Start]:
        """Every member's network before training, on the device."""
        return [self.start(member) for member in self.members()]

    def networks(self) -> list[Network]:
        """The same without what came with them."""
        return [initial.network for initial in self.starts()]

    def deployed(self, networks: Sequence[Network]) -> nn.Module:
        """What inference runs of the case's networks: the one, or the mean of a hybrid's, as the variant says."""
        return self.variant.deploy(answering(networks))

    def deployed_images(self, count: int) -> Tensor:
        """Noise in place of images, as inference takes them."""
        return self.variant.deployed_images(self.random_images(count))

    def plan(self, network: Network, epoch: int = 0) -> Plan:
        """What the policy does with a network in an epoch.

        Raises:
            SkippedError: the network has too few stages for the policy.
            FashiontlError: the policy fails in any other way; both say which policy, and which stages there are.
        """
        policy, names = POLICIES[self.case.policy], network.stage_names
        try:
            return policy.plan(names, epoch, self.settings.epochs)
        except FashiontlError as error:
            kind = SkippedError if isinstance(error, SkippedError) else FashiontlError
            raise kind(f"policy {policy.name}: {error}") from error
        except Exception as error:  # whatever a policy of someone else does, the message says where
            raise FashiontlError(
                f"policy {policy.name}: expected a plan for the stages {', '.join(names)} in epoch {epoch + 1} of "
                f"{self.settings.epochs}, got {type(error).__name__}: {error}; correct it, or raise SkippedError for "
                "networks that it does not fit"
            ) from error

    def adapts(self, networks: Iterable[Network]) -> bool:
        """Whether the policy puts adapters beside frozen layers of any of the networks, in any epoch."""
        plans = [self.plan(network, epoch) for network in networks for epoch in range(self.settings.epochs)]
        return any(stage.trains == "adapters" for plan in plans for stage in plan)

    def check(self, network: Network) -> None:
        """See that the policy can be put on a network, in all epochs.

        Raises:
            SkippedError: the network has too few stages for the policy, or the policy's library is not here.
            FashiontlError: the policy fails in any other way.
        """
        library = ADAPTERS if self.adapts([network]) else POLICIES[self.case.policy].library
        if reason := unavailable_reason(library):
            raise SkippedError(f"policy {self.case.policy} {reason}")

    def periods(self, networks: Sequence[Network]) -> list[tuple[int, float]]:
        """Epochs in which no network's plan changes: the first of each period, and which share of all epochs it has.

        Args:
            networks: of all members, since a policy may change its plan for each at an epoch of its own.
        """
        plans = [[self.plan(network, epoch) for network in networks] for epoch in range(self.settings.epochs)]
        lengths = [(plan, len(list(group))) for plan, group in itertools.groupby(plans)]
        firsts = itertools.accumulate((length for _, length in lengths[:-1]), initial=0)
        return [(first, length / len(plans)) for first, (_, length) in zip(firsts, lengths, strict=True)]

    def of_one_epoch(self, what: str, epoch: int, networks: Sequence[Network]) -> list[str]:
        """A warning where something is measured of one epoch, from 0, and the policy changes over the epochs."""
        if len(self.periods(networks)) == 1:
            return []
        return [f"{what}: steps of epoch {epoch + 1} of {self.settings.epochs} alone; others train other stages"]

    def prepare(self, network: Network, epoch: int = 0) -> None:
        """Add to a network on the device what its policy ever trains beside it, and put an epoch's plan on it."""
        plans = [self.plan(network, each) for each in range(self.settings.epochs)]
        stages = zip(*plans, strict=False)
        adapting = [next((stage for stage in each if stage.trains == "adapters"), each[0]) for each in stages]
        prepare(network, tuple(adapting), self.random_images(1))
        apply(network, plans[epoch])

    def trainable_parameters(self, network: Network) -> int:
        """How many parameters train, in the epoch with the most of them; the network is prepared for it."""
        counts = []
        for epoch, _ in self.periods([network]):
            self.prepare(network, epoch)
            counts.append(sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad))
        return max(counts)

    def random_images(self, count: int) -> Tensor:
        """Noise in place of images, float32 `[count, 3, size, size]` on the device; always the same."""
        size = self.settings.image_size
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, size, size, generator=generator).to(self.case.device)

    def examples(self) -> Examples:
        """The training images that the first seed draws, on the device, or on the host where it has too little room."""
        settings = self.settings
        images = load_task_images(self.task, settings.data, settings.data_root or None, settings.image_size)
        drawn = select(images, self.task, self.task.per_class or settings.train_per_class, 1, 0)
        return Examples(drawn.train_images, drawn.train_labels).on(self.case.device)

    def step(self, initial: Start, epoch: int = 0, count: int = 0) -> TrainingStep:
        """One training step of a network, as in an epoch, in its parts; the network is prepared for it.

        It runs every stage: reuse of a frozen prefix is a saving of the accuracy runs, and is never mixed with what a
        step costs.

        Args:
            initial: the network.
            epoch: whose plan is used.
            count: images a step; 0 takes the settings' own.
        """
        network = initial.network
        self.prepare(network, epoch)
        recipe = recipe_for(self.case.policy, self.settings, normalised=is_normalised(network))
        # At this learning rate nothing moves far: a thousand steps on noise cannot overflow and change the speed.
        recipe = replace(recipe, lr=1e-6)
        images = self.random_images(count or self.settings.throughput_batch)
        labels = torch.arange(len(images), device=images.device) % len(self.task.class_names)
        optimizer = new_optimizer(network, self.plan(network, epoch), recipe)
        return TrainingStep(network, optimizer, self.variant, initial.preprocessing, recipe, Examples(images, labels))

    def training_step(self, starts: Sequence[Start], epoch: int = 0) -> Callable[[], None]:
        """A function that makes one training step of each network on a batch that is on the device."""
        return together([self.step(initial, epoch) for initial in starts])


def together(calls: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """One call that makes several, one after the other."""
    if len(calls) == 1:
        return calls[0]

    def call() -> None:
        for each in calls:
            each()

    return call


def answering(networks: Sequence[Network]) -> nn.Module:
    """What answers for a case: its network, or the mean of a hybrid's."""
    return networks[0] if len(networks) == 1 else MeanOfProbabilities(networks)
