"""The training loop: a network, a freezing policy and a recipe become weights, predictions and a proof."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fashiontl.core.errors import FashiontlError
from fashiontl.data.preprocessing import Preprocessing, augment
from fashiontl.freezing.apply import NORMALISATION, apply, frozen_prefix, parameter_groups
from fashiontl.freezing.policies import Plan, Policy
from fashiontl.freezing.proof import FreezeVerifier, PolicyProof
from fashiontl.machine.devices import Device
from fashiontl.models.network import Network
from fashiontl.timing.variants import Variant
from fashiontl.training.divergence import diverged, in_answers, in_step, in_weights
from fashiontl.training.prefix import Features, FeatureStore, key_of
from fashiontl.training.recipes import Recipe

# Outputs of a frozen prefix are kept for all epochs when they fit in this many bytes.
FEATURE_BUDGET = 2 * 2**30
# By the names that recipes have.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
_EVALUATION_BATCH = 200
_PLAIN = Variant()


@dataclass(frozen=True)
class Examples:
    """Images, uint8 `[n, height, width]` or `[n, 3, height, width]`, and labels, int64 `[n]`, on a device.

    Images may also be on the host: then each batch is gathered there and copied.
    """

    images: Tensor
    labels: Tensor

    def on(self, device: str) -> "Examples":
        """The same on a device; images that would take more than a quarter of its free memory stay where they are."""
        # So that weights, gradients and activations find room.
        free = Device.of(device).free_memory()
        fit = free is None or self.images.nbytes <= free / 4
        return Examples(self.images.to(device) if fit else self.images, self.labels.to(device))


@dataclass(frozen=True)
class Fit:
    """The results of a training besides the weights.

    Attributes:
        seconds: wall time of the loop, synchronised, without validation.
        losses: mean training loss of each epoch.
        reused_stages: the most leading stages whose output was computed once and reused.
        validation: accuracy on the validation images after each epoch; empty without any.
        chosen: the epoch, from 0, whose weights were kept.
        features: `computed` or held in `memory`, of the output of `reused_stages`; None without reuse.
        steps: of an epoch.
    """

    seconds: float
    losses: tuple[float, ...]
    proof: PolicyProof
    reused_stages: int
    validation: tuple[float, ...]
    chosen: int
    features: str | None = None
    steps: int = 0


def fit(  # noqa: C901, PLR0913 - the loop in its order, and all that a training depends on
    network: Network,
    policy: Policy,
    examples: Examples,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seed: int,
    validation: Examples | None = None,
    variant: Variant = _PLAIN,
    store: FeatureStore | None = None,
    progress: Callable[[int], None] = lambda epoch: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Fit:
    """Train a network in place under a freezing policy.

    With validation images it ends with the weights of the epoch that was best on them, the first of equals; otherwise
    with those of the last.

    Under `bf16` and `fp16` the forward pass and the loss run under autocast, the loss itself in float32; `fp16` also
    scales it, and skips steps whose gradients overflow. Nothing is compiled, whatever the variant's execution: that
    would change only the rounding, and compile again for each batch size and each change of plan.

    The network is on the device where it trains, with the examples. The seed is that of the batches' order and the
    augmentation. `progress` is called with the number of each epoch, from 0, as it starts.

    Raises:
        DivergedError: of `diverged`: a loss, a logit or a weight was not finite. That epoch is the last that runs.
    """
    generator = torch.Generator().manual_seed(seed)
    variant.place(network)
    verifier = FreezeVerifier(network)
    optimizer: torch.optim.Optimizer | None = None
    plan: Plan | None = None
    features: str | None = None
    losses: list[float] = []
    accuracies: list[float] = []
    best: dict[str, Tensor] = {}
    reused, seconds = 0, 0.0
    device = Device.of(str(_device_of(network)))
    scaler = variant.scaler(device.kind)
    for epoch in range(recipe.epochs):
        progress(epoch)
        device.synchronize()
        started = clock()
        wanted = policy.plan(network.stage_names, epoch, recipe.epochs)
        if wanted != plan or optimizer is None:
            if plan is not None:
                verifier.end()
            plan = wanted
            apply(network, plan)
            verifier.begin(plan)
            optimizer = new_optimizer(network, plan, recipe, optimizer)
            batches = Batches(
                network, plan, examples.images, recipe, preprocessing, generator, variant=variant, store=store
            )
            if batches.first_stage > reused:
                reused, features = batches.first_stage, batches.source
        loss, seen = _epoch(network, optimizer, scaler, batches, examples.labels, recipe, epoch=epoch, variant=variant)
        device.synchronize()
        seconds += clock() - started
        if what := next(filter(None, seen), ""):
            raise diverged(what, recipe, (epoch, seen.index(what)), len(seen), losses)
        steps, last = len(seen), (epoch, len(seen) - 1)
        losses.append(loss)
        if validation is not None:
            logits = predict(network, validation.images, preprocessing, variant)
            accuracies.append((logits.argmax(1) == validation.labels.cpu()).double().mean().item())
            if accuracies[-1] > max(accuracies[:-1], default=-1.0):
                best = {name: value.clone() for name, value in network.state_dict().items()}
            if what := in_answers(logits, "validation"):
                raise diverged(what, recipe, last, steps, losses)
            apply(network, plan)
    if what := in_weights(network):
        raise diverged(what, recipe, last, steps, losses)
    verifier.end()
    if best:
        network.load_state_dict(best)
    chosen = accuracies.index(max(accuracies)) if accuracies else recipe.epochs - 1
    return Fit(seconds, tuple(losses), verifier.result(), reused, tuple(accuracies), chosen, features, steps)


def _epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: "Batches",
    labels: Tensor,
    recipe: Recipe,
    *,
    epoch: int,
    variant: Variant,
) -> tuple[float, list[str]]:
    """One pass over the training images: the mean loss, and what of each step was not finite, empty where nothing."""
    steps = math.ceil(len(labels) / recipe.batch_size)
    total = torch.zeros((), device=labels.device)
    losses: list[Tensor] = []
    largest: list[Tensor] = []

    def run(inputs: Tensor) -> Tensor:
        logits = network.run(inputs, batches.first_stage, len(network.stage_names))
        # One small kernel, which propagates NaN.
        largest.append(torch.linalg.vector_norm(logits.detach(), math.inf, dtype=torch.float32))
        return logits

    for number, (chosen, inputs) in enumerate(batches):
        factor = 1.0
        if recipe.schedule == "cosine":
            factor = lr_factor(epoch * steps + number, recipe.epochs * steps, recipe.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        optimizer.zero_grad()
        loss = loss_of(run, inputs, labels[chosen], recipe, variant)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
        total += losses[-1] * len(chosen)
    # One read an epoch: reading each step's loss would make the device wait for the host.
    whole, *numbers = torch.stack([total, *losses, *largest]).tolist()
    each = zip(numbers[: len(losses)], numbers[len(losses) :], strict=True)
    return whole / len(labels), [in_step(loss, logit) for loss, logit in each]


def loss_of(
    run: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, recipe: Recipe, variant: Variant
) -> Tensor:
    """The loss of a training step, here and where steps are timed: the forward pass and the cross-entropy."""
    with variant.autocast(labels.device.type):
        return functional.cross_entropy(run(inputs), labels, label_smoothing=recipe.label_smoothing)


def lr_factor(step: int, steps: int, warm_up: float) -> float:
    """Learning rate at a step over its peak: linear from 0 in the warm-up, then half a cosine down to 0."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def predict(
    network: Network,
    images: Tensor,
    preprocessing: Preprocessing,
    variant: Variant = _PLAIN,
    *,
    prefix: int = 0,
    store: FeatureStore | None = None,
) -> Tensor:
    """Logits of all images, float32 `[n, classes]` on the CPU, as inference computes them: with weights of its type.

    The network is left in eval mode. Images are uint8 `[n, height, width]` or `[n, 3, height, width]`, on the network's
    device or the host. Nothing is compiled, whatever the variant. With a store, the outputs of the first stages, so
    many as `prefix` says, are kept for the next network in which these have the same weights.
    """
    deployed = variant.deploy(network)
    with torch.inference_mode():
        parts = torch.split(images, _EVALUATION_BATCH)
        device = _device_of(network)

        def prepared(part: Tensor) -> Tensor:
            return variant.deployed_images(preprocessing(copied(part, device)))

        # What is deployed as a copy has other weights than those that the key would be of.
        if store is None or not prefix or deployed is not network:
            answers = [deployed(prepared(part)) for part in parts]
        else:
            key = key_of(network, prefix, images, preprocessing, variant, batches=len(parts))
            features = store.tested(key, parts, lambda part: network.run(prepared(part), 0, prefix), FEATURE_BUDGET)
            answers = [network.run(each, prefix, len(network.stages)) for each in features]
    return torch.cat(answers).float().cpu()


def frozen_cut(network: Network, plan: Plan) -> int:
    """How many leading stages compute the same function under a plan, and can be run apart from the others."""
    return max(cut for cut in network.cuts if cut <= frozen_prefix(plan))


def is_normalised(network: Network) -> bool:
    """Whether the network has any normalisation layer."""
    return any(isinstance(module, NORMALISATION) for module in network.modules())


class Batches:
    """Training batches in random order, one pass an iteration.

    The output of a frozen prefix in eval mode is the same at every epoch. With a store it is computed once, unless that
    would change more than rounding of what a step computes, images change at random, or the outputs exceed
    `FEATURE_BUDGET`.

    Attributes:
        first_stage: the stage that takes these batches; those before it have been run already.
        source: of their output, as `Features` has it; None without reuse.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        images: Tensor,
        recipe: Recipe,
        preprocessing: Preprocessing,
        generator: torch.Generator,
        *,
        variant: Variant = _PLAIN,
        store: FeatureStore | None = None,
    ) -> None:
        self.first_stage = 0
        self.source: str | None = None
        self._images = images
        self._steps = math.ceil(len(images) / recipe.batch_size)
        self._features: Features | None = None
        self._augmented = recipe.augment
        self._preprocessing = preprocessing
        self._generator = generator
        self._variant = variant
        self._device = _device_of(network)
        prefix = frozen_cut(network, plan)
        if store is None or not prefix or recipe.augment:
            return

        def run(part: Tensor) -> Tensor:
            with variant.autocast(self._device.type):
                return network.run(self._prepared(part), 0, prefix)

        parts = torch.tensor_split(images, self._steps)
        key = key_of(network, prefix, images, preprocessing, variant, batches=self._steps)
        self._features = store.features(key, parts, run, FEATURE_BUDGET)
        if self._features is not None:
            self.first_stage, self.source = prefix, self._features.source

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the chosen indices, int64 `[batch]`, and the inputs of `first_stage`."""
        order = torch.randperm(len(self._images), generator=self._generator).to(self._images.device)
        # Even parts: BatchNorm cannot train on a last batch of one image.
        for chosen in torch.tensor_split(order, self._steps):
            yield chosen, self._features.batch(chosen) if self._features else self._prepared(self._images[chosen])

    def _prepared(self, images: Tensor) -> Tensor:
        images = copied(images, self._device)
        images = augment(images, self._generator) if self._augmented else images
        return self._variant.arrange(self._preprocessing(images))


def _device_of(network: Network) -> torch.device:
    return next(network.parameters()).device


def copied(images: Tensor, device: torch.device) -> Tensor:
    """A batch on a device; from pinned memory the copy does not stop the host."""
    if images.device == device:
        return images
    return (images.pin_memory() if device.type == "cuda" else images).to(device, non_blocking=True)


def new_optimizer(
    network: Network, plan: Plan, recipe: Recipe, previous: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimiser, at its peak learning rate, of what trains under a plan.

    The state of a previous one is kept for what goes on training; an unfrozen parameter starts with fresh state.

    Raises:
        FashiontlError: nothing trains.
    """
    groups = parameter_groups(network, plan, recipe.lr, recipe.weight_decay)
    if not groups:
        raise FashiontlError(
            f"expected a plan under which something trains, got none in the stages {', '.join(network.stage_names)}; "
            "correct the policy"
        )
    optimizer = OPTIMIZERS[recipe.optimizer](groups, fused=_device_of(network).type in {"cpu", "cuda"})
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
        for parameter in group["params"]:
            if previous is not None and parameter in previous.state:
                optimizer.state[parameter] = previous.state[parameter]
    return optimizer
