"""How weights are fitted: fixed numbers, chosen without any test image. No torch."""

from dataclasses import dataclass, replace

from fashiontl.core.case import Settings


@dataclass(frozen=True)
class Recipe:
    """How weights are fitted.

    By default AdamW with decoupled weight decay, linear warm-up and cosine decay (Loshchilov and Hutter, ICLR 2017 and
    2019), and label smoothing (Szegedy et al., CVPR 2016).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate of the head; `lr_scale` of a stage's plan multiplies it.
        weight_decay: not applied to one-dimensional parameters.
        label_smoothing: of the cross-entropy.
        warm_up: fraction of all steps in which the learning rate rises.
        augment: random flips and shifts.
        optimizer: `adamw`, `adam` or `sgd` (without momentum).
        schedule: `cosine`, after the warm-up, or `constant`, without one.
    """

    epochs: int
    batch_size: int
    lr: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warm_up: float = 0.1
    augment: bool = False
    optimizer: str = "adamw"
    schedule: str = "cosine"


# What tutorials do: a library's optimiser at one learning rate, and nothing else. Names of `Settings.recipe`.
_NAIVE = {"naive_adam": ("adam", 1e-3), "naive_sgd": ("sgd", 0.1)}

# With the backbone frozen the problem is convex, a step costs next to nothing on features that are computed once, and
# a probe is judged at convergence (Kumar et al., ICLR 2022), so it takes more and larger steps.
_PROBE_LR = 1e-2
_PROBE_EPOCHS = 8
# A network without normalisation layers (VGG without BatchNorm, AlexNet) loses units at the usual learning rate.
_PLAIN = 0.3


def recipe_for(policy: str, settings: Settings, *, normalised: bool) -> Recipe:
    """The recipe with which a policy is trained, for a network with or without normalisation layers."""
    recipe = Recipe(settings.epochs, settings.batch_size, augment=settings.augment)
    if settings.recipe in _NAIVE:
        optimizer, lr = _NAIVE[settings.recipe]
        recipe = replace(
            recipe, lr=lr, weight_decay=0.0, label_smoothing=0.0, warm_up=0.0, optimizer=optimizer, schedule="constant"
        )
    elif policy == "linear_probe":
        recipe = replace(recipe, epochs=_PROBE_EPOCHS * recipe.epochs, lr=_PROBE_LR)
    elif not normalised:
        recipe = replace(recipe, lr=recipe.lr * _PLAIN)
    return replace(recipe, lr=settings.lr) if settings.lr else recipe


def pretraining_recipe(settings: Settings, *, normalised: bool) -> Recipe:
    """The recipe with which a source backbone is trained, from scratch.

    Without label smoothing: it pulls the images of a class together, and features then transfer worse (Kornblith et
    al., "Why do better loss functions lead to less transferable features?", NeurIPS 2021).
    """
    lr = Recipe.lr * (1.0 if normalised else _PLAIN)
    return Recipe(
        settings.pretrain_epochs, settings.pretrain_batch_size, lr, label_smoothing=0.0, augment=settings.augment
    )
