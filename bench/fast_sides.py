"""The sides of bench/fast.py: one network trained by fashiontl, by the loop that people write, and by Lightning.

All start from the same weights and see the same pixels; optimiser, schedule, loss and freezing are the same. What
differs is how images reach the network and how the loop around it runs. Lightning is imported only where it trains.
"""

import copy
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from fashiontl.data.preprocessing import Preprocessing
from fashiontl.data.select import TaskData, select
from fashiontl.data.sources import load_task_images
from fashiontl.data.torchvision_import import torchvision
from fashiontl.freezing import POLICIES
from fashiontl.freezing.apply import apply, parameter_groups
from fashiontl.freezing.policies import Plan
from fashiontl.models.network import Network
from fashiontl.runner.phases import pretrain
from fashiontl.runner.workload import Workload
from fashiontl.timing import torch_flags
from fashiontl.timing.variants import Variant
from fashiontl.training.evaluation import evaluate
from fashiontl.training.fit import OPTIMIZERS, Examples, fit, is_normalised, lr_factor, predict
from fashiontl.training.prefix import FeatureStore
from fashiontl.training.recipes import Recipe, recipe_for

# What fashiontl.runner.client may be asked for.
__all__ = ["measure", "pretrain"]


@dataclass(frozen=True)
class Training:
    """What every side is given.

    Attributes:
        network: trained in place, on the CPU.
        policy: name of one whose plan is the same at every epoch.
        data: images and labels.
        recipe: how.
        preprocessing: of the images.
        seed: of the order of the images, in `fashiontl`; elsewhere torch's own generator gives it.
        loader_workers: processes of a DataLoader.
        variant: memory format in `fashiontl`.
    """

    network: Network
    policy: str
    data: TaskData
    recipe: Recipe
    preprocessing: Preprocessing
    seed: int = 0
    loader_workers: int = 0
    variant: Variant = field(default_factory=Variant)

    @property
    def plan(self) -> Plan:
        """What the policy does at every epoch."""
        return POLICIES[self.policy].plan(self.network.stage_names, 0, self.recipe.epochs)


class Side(Protocol):
    """One way to train; made anew for each training, and its making is timed with it.

    Attributes:
        reused_stages: leading stages whose output was computed once for all epochs.
    """

    reused_stages: int

    def __init__(self, training: Training) -> None:
        """Prepare what the training needs."""

    def train(self) -> Sequence[float]:
        """Train; the mean loss of each epoch."""

    def test(self) -> Tensor:
        """Logits of the test images, float32 `[n, classes]`."""


class Fashiontl:
    """As `fashiontl.runner.phases.accuracy` trains; features are kept in memory, so each training computes its own."""

    reused_stages = 0

    def __init__(self, training: Training) -> None:
        self._training = training
        self._store = FeatureStore()

    def train(self) -> Sequence[float]:
        """Train, with the proof that the policy was kept."""
        given = self._training
        result = fit(
            given.network,
            POLICIES[given.policy],
            Examples(given.data.train_images, given.data.train_labels),
            given.recipe,
            given.preprocessing,
            seed=given.seed,
            variant=given.variant,
            store=self._store,
        )
        self.reused_stages = result.reused_stages
        return result.losses

    def test(self) -> Tensor:
        """Logits of the test images."""
        given = self._training
        return predict(given.network, given.data.test_images, given.preprocessing, given.variant)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images in memory that become PIL images and are transformed one by one, as torchvision's FashionMNIST does it.

    Args:
        images: uint8, grey `[n, side, side]`.
        labels: int64 `[n]`.
        preprocessing: what the transforms do.
    """

    def __init__(self, images: Tensor, labels: Tensor, preprocessing: Preprocessing) -> None:
        self._images, self._labels = images, labels
        self._transform = transform_of(preprocessing, images.shape[-1])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index].numpy())), int(self._labels[index])


def transform_of(preprocessing: Preprocessing, side: int) -> Any:
    """Transforms of torchvision that do to a grey PIL image of a side what the preprocessing does to a batch."""
    transforms = torchvision.transforms
    steps: list[Any] = [transforms.ToTensor()]
    size = preprocessing.size
    if size == 32 and side == 28:
        steps.append(transforms.Pad(2))
    elif size != side:
        mode = transforms.InterpolationMode(preprocessing.interpolation)
        steps += [transforms.Resize((size, size), mode, antialias=True), transforms.Lambda(lambda x: x.clamp(0, 1))]
    steps.append(transforms.Lambda(lambda image: image.expand(3, -1, -1)))
    return transforms.Compose([*steps, transforms.Normalize(preprocessing.mean, preprocessing.std)])


def check_pixels(images: Tensor, labels: Tensor, preprocessing: Preprocessing) -> None:
    """See that both ways from images to what a network takes end in the same pixels.

    Raises:
        AssertionError: some pixel differs in some bit.
    """
    pictures = Pictures(images, labels, preprocessing)
    one_by_one = torch.stack([pictures[index][0] for index in range(len(pictures))])
    together = preprocessing(images)
    assert torch.equal(one_by_one, together), (
        "expected the same pixels from the transforms as from fashiontl.data.preprocessing, "
        f"got {int((one_by_one != together).sum())} that differ"
    )


def optimizer_of(given: Training) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The recipe's optimiser as people write it, without further arguments, and its schedule."""
    recipe = given.recipe
    groups = parameter_groups(given.network, given.plan, recipe.lr, recipe.weight_decay)
    optimizer = OPTIMIZERS[recipe.optimizer](groups)
    steps = recipe.epochs * -(-len(given.data.train_labels) // recipe.batch_size)
    constant = recipe.schedule == "constant"
    return optimizer, LambdaLR(optimizer, lambda step: 1.0 if constant else lr_factor(step, steps, recipe.warm_up))


class Plain:
    """The loop that people write: a Dataset, a DataLoader, a step a batch, and the loss read at each."""

    reused_stages = 0

    def __init__(self, training: Training) -> None:
        self.given = training
        self.loss = nn.CrossEntropyLoss(label_smoothing=training.recipe.label_smoothing)

    def loader(self, images: Tensor, labels: Tensor, *, shuffle: bool) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches of images, in random order or one after the other."""
        pictures: Any = Pictures(images, labels, self.given.preprocessing)
        return DataLoader(
            pictures, self.given.recipe.batch_size, shuffle=shuffle, num_workers=self.given.loader_workers,
            persistent_workers=self.given.loader_workers > 0,
        )  # fmt: skip

    def training_loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The training images, shuffled at each epoch."""
        return self.loader(self.given.data.train_images, self.given.data.train_labels, shuffle=True)

    def test_loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The test images in their order."""
        return self.loader(self.given.data.test_images, self.given.data.test_labels, shuffle=False)

    def train(self) -> Sequence[float]:
        """Train; frozen stages are in eval mode and without gradients, as in fashiontl."""
        network = self.given.network
        loader = self.training_loader()
        apply(network, self.given.plan)
        optimizer, scheduler = optimizer_of(self.given)
        losses = []
        for _ in range(self.given.recipe.epochs):
            total = 0.0
            for images, labels in loader:
                optimizer.zero_grad()
                loss = self.loss(network(images), labels)
                loss.backward()
                optimizer.step()
                scheduler.step()
                total += loss.item() * len(labels)
            losses.append(total / len(self.given.data.train_labels))
        return losses

    def test(self) -> Tensor:
        """Logits of the test images."""
        network = self.given.network.eval()
        with torch.no_grad():
            return torch.cat([network(images) for images, _ in self.test_loader()])


class Lightning(Plain):
    """Lightning's Trainer with its defaults, but nothing that writes or shows: no logger, checkpoints, bar, summary."""

    def __init__(self, training: Training) -> None:
        import lightning

        super().__init__(training)
        self._trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=training.recipe.epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        self._module = _module(self)

    def train(self) -> Sequence[float]:
        """Train with `Trainer.fit`."""
        self._trainer.fit(self._module, self.training_loader())
        return [total.item() / len(self.given.data.train_labels) for total in self._module.totals]

    def test(self) -> Tensor:
        """Logits of the test images by `Trainer.predict`."""
        return torch.cat(self._trainer.predict(self._module, self.test_loader()))


def _module(side: Lightning) -> Any:
    import lightning

    given = side.given

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = given.network
            self.totals: list[Tensor] = []

        def on_train_epoch_start(self) -> None:
            apply(given.network, given.plan)
            self.totals.append(torch.zeros(()))

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            loss: Tensor = side.loss(self.network(images), labels)
            self.totals[-1] += loss.detach() * len(labels)
            return loss

        def predict_step(self, batch: tuple[Tensor, Tensor]) -> Any:
            return self.network(batch[0])

        def configure_optimizers(self) -> Any:
            apply(given.network, given.plan)
            optimizer, scheduler = optimizer_of(given)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Module()


SIDES: dict[str, type[Side]] = {"fashiontl": Fashiontl, "plain": Plain, "lightning": Lightning}


def measure(job: dict[str, Any], _progress: Any = None) -> dict[str, Any]:
    """One training and one test by one side, in a process that has done nothing else.

    Before the clock starts, the side trains a copy of the network for one epoch on one batch: what torch and Lightning
    import or set up at their first step is paid once a process, whoever trains.

    Args:
        job: a phase's job, with `side`, `seed` and `loader_workers`.

    Returns:
        `train_seconds`, from images in memory to trained weights; `test_seconds`; `cpu_seconds` of training, over all
        threads; `accuracy`; `losses`; `reused_stages`.
    """
    work = Workload.of(job)
    settings, policy, seed = work.settings, work.case.policy, job["seed"]
    kind = SIDES[job["side"]]
    if kind is Fashiontl:
        torch_flags.deterministic(work.case.precision)
    images = load_task_images(work.task, settings.data, settings.data_root or None, settings.image_size)
    data = select(images, work.task, settings.train_per_class, settings.test_per_class, seed)
    torch.manual_seed(seed)
    initial = work.start(work.case)
    check_pixels(data.train_images, data.train_labels, initial.preprocessing)
    check_pixels(data.test_images, data.test_labels, initial.preprocessing)
    # As many epochs for every policy; fashiontl's own recipe would train a probe for eight times as many.
    recipe = replace(recipe_for(policy, settings, normalised=is_normalised(initial.network)), epochs=settings.epochs)
    given = Training(
        initial.network, policy, data, recipe, initial.preprocessing, seed, job["loader_workers"], work.variant
    )
    _warm_up(kind, given)
    torch.manual_seed(seed)
    started, cpu_started = time.perf_counter(), time.process_time()
    side = kind(given)
    losses = side.train()
    trained, cpu_trained = time.perf_counter(), time.process_time()
    logits = side.test()
    tested = time.perf_counter()
    return {
        "train_seconds": trained - started,
        "test_seconds": tested - trained,
        "cpu_seconds": cpu_trained - cpu_started,
        "accuracy": evaluate(logits, data.test_labels).accuracy,
        "losses": list(losses),
        "reused_stages": side.reused_stages,
    }


def _warm_up(kind: type[Side], given: Training) -> None:
    size, data = given.recipe.batch_size, given.data
    few = replace(
        data, train_images=data.train_images[:size], train_labels=data.train_labels[:size],
        test_images=data.test_images[:size], test_labels=data.test_labels[:size],
    )  # fmt: skip
    recipe = replace(given.recipe, epochs=1)
    side = kind(replace(given, network=copy.deepcopy(given.network), data=few, recipe=recipe))
    side.train()
    side.test()


if __name__ == "__main__":
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    print(json.dumps(measure(request)))
