"""What the phases of a case work on: its networks, its images, and a training step."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fashiontl import extensions
from fashiontl.architectures import fitting_size, trained_apart
from fashiontl.architectures.hybrids import MeanOfProbabilities
from fashiontl.architectures.network import Network
from fashiontl.case import Case, Settings
from fashiontl.data import Task, find_task
from fashiontl.freezing import POLICIES, Plan
from fashiontl.freezing.adapters import prepare
from fashiontl.freezing.apply import apply
from fashiontl.recipes import recipe_for
from fashiontl.train import is_normalised, new_optimizer
from fashiontl.weights import Start, start


@dataclass(frozen=True)
class Workload:
    """A case as a phase sees it.

    Attributes:
        case: the cell.
        settings: how, at an image size that the architecture takes.
        task: the case's.
        checkpoints: files that pretraining left, by architecture.
    """

    case: Case
    settings: Settings
    task: Task
    checkpoints: dict[str, Path]

    @classmethod
    def of(cls, job: dict[str, Any]) -> "Workload":
        """Read a job; the user's own entries are loaded first.

        Raises:
            FashiontlError: a name that no table has.
        """
        extensions.load(job.get("extensions", ()))
        case, settings = Case(**job["case"]), Settings(**job["settings"])
        size = fitting_size(case.architecture, settings.image_size)
        checkpoints = {name: Path(path) for name, path in job.get("checkpoints", {}).items()}
        return cls(case, replace(settings, image_size=size), find_task(case.task), checkpoints)

    def parts(self) -> list[Case]:
        """The cases whose networks are trained each on its own: this one, or those of a hybrid's members."""
        return [replace(self.case, architecture=name) for name in trained_apart(self.case.architecture)]

    def start(self, part: Case) -> Start:
        """A part's network before training, on the CPU."""
        return start(part, self.settings.image_size, self.checkpoints)

    def networks(self) -> list[Network]:
        """Every part's network before training, on the device."""
        return [self.start(part).network.to(self.case.device) for part in self.parts()]

    def plan(self, network: Network, epoch: int = 0) -> Plan:
        """What the policy does with a network in an epoch."""
        return POLICIES[self.case.policy].plan(network.stage_names, epoch, self.settings.epochs)

    def periods(self, network: Network) -> list[tuple[int, float]]:
        """Epochs with one plan after the other: the first of each, and which share of all epochs it has."""
        plans = [self.plan(network, epoch) for epoch in range(self.settings.epochs)]
        lengths = [(plan, len(list(group))) for plan, group in itertools.groupby(plans)]
        firsts = itertools.accumulate((length for _, length in lengths[:-1]), initial=0)
        return [(first, length / len(plans)) for first, (_, length) in zip(firsts, lengths, strict=True)]

    def prepare(self, network: Network, epoch: int = 0) -> None:
        """Add to a network on the device what its policy trains beside it, and put an epoch's plan on it."""
        plan = self.plan(network, epoch)
        prepare(network, plan, self.random_images(1))
        apply(network, plan)

    def trainable_parameters(self, network: Network) -> int:
        """How many parameters train, in the epoch with the most of them; the network is prepared for it."""
        counts = []
        for epoch, _ in self.periods(network):
            self.prepare(network, epoch)
            counts.append(sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad))
        return max(counts)

    def random_images(self, count: int) -> Tensor:
        """Noise in place of images, float32 `[count, 3, size, size]` on the device; always the same."""
        size = self.settings.image_size
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, size, size, generator=generator).to(self.case.device)

    def training_step(self, networks: Sequence[Network], epoch: int = 0) -> Callable[[], None]:
        """A function that makes one training step of each network, as in an epoch, on a batch that is on the device.

        It runs every stage at every step: reuse of a frozen prefix is a saving of the accuracy runs, and is never mixed
        with what a step costs.
        """
        steps = [self._step(network, epoch) for network in networks]

        def call() -> None:
            for one in steps:
                one()

        return call

    def _step(self, network: Network, epoch: int) -> Callable[[], None]:
        self.prepare(network, epoch)
        count = self.settings.throughput_batch
        recipe = recipe_for(self.case.policy, self.settings, normalised=is_normalised(network))
        # A rate at which nothing moves far, so that a thousand steps on noise cannot overflow and change the speed.
        optimizer = new_optimizer(network, self.plan(network, epoch), replace(recipe, rate=1e-6))
        inputs = self.random_images(count)
        labels = torch.arange(count, device=self.case.device) % len(self.task.class_names)

        def call() -> None:
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(inputs), labels, label_smoothing=recipe.smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return call


def answering(networks: Sequence[Network]) -> nn.Module:
    """What answers for a case: its network, or the mean of a hybrid's."""
    return networks[0] if len(networks) == 1 else MeanOfProbabilities(networks)
