"""A training step in its parts, so that each can be timed: data, forward, backward, optimiser."""

import torch
from torch import Tensor, nn

from fashiontl.data.preprocessing import Preprocessing, augment
from fashiontl.timing.variants import Variant
from fashiontl.training.fit import Examples, copied, loss_of
from fashiontl.training.recipes import Recipe


class TrainingStep:
    """One training step of a network on a batch that stays on the device; call it for a whole step without data.

    The network is prepared for a policy's plan; its memory format is set here. The first batch holds images as float32
    `[n, 3, size, size]`.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        variant: Variant,
        preprocessing: Preprocessing,
        recipe: Recipe,
        batch: Examples,
    ) -> None:
        self._optimizer = optimizer
        self._variant = variant
        self._preprocessing = preprocessing
        self._recipe = recipe
        self._scaler = variant.scaler(batch.images.device.type)
        variant.place(network)
        self._run = variant.compiled(network)
        self._images = variant.arrange(batch.images)
        self._labels = batch.labels
        self._loss: Tensor | None = None
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Forward, backward, optimiser."""
        self.forward()
        self.backward()
        self.update()

    def load(self, examples: Examples) -> None:
        """Make the next batch as training does: gather at random, augment if the recipe says so, preprocess.

        Images may be drawn twice, because a batch of the speed measurements may be larger than the training set.
        """
        labels = examples.labels
        chosen = torch.randint(len(labels), (len(self._labels),), generator=self._generator)
        images = copied(examples.images[chosen.to(examples.images.device)], labels.device)
        images = augment(images, self._generator) if self._recipe.augment else images
        self._images = self._variant.arrange(self._preprocessing(images))
        self._labels = labels[chosen.to(labels.device)]

    def forward(self) -> None:
        """Run the network on the batch, to its loss."""
        self._loss = loss_of(self._run, self._images, self._labels, self._recipe, self._variant)

    def backward(self) -> None:
        """Compute the gradients of what trains."""
        assert self._loss is not None
        self._scaler.scale(self._loss).backward()  # type: ignore[no-untyped-call]
        self._loss = None

    def update(self) -> None:
        """Update the weights, and delete the gradients."""
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
