"""How weights are fitted: fixed numbers, chosen without any test image. No torch."""

from dataclasses import dataclass, replace

from fashiontl.core.case import Settings


@dataclass(frozen=True)
class Recipe:
    """How weights are fitted.

    By default AdamW with decoupled decay, linear warm-up and cosine decay (Loshchilov and Hutter, ICLR 2017 and 2019),
    label smoothing (Szegedy et al., CVPR 2016).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        rate: peak learning rate of the head; a plan's own rates multiply it.
        decay: weight decay, not applied to one-dimensional parameters.
        smoothing: label smoothing.
        warm_up: fraction of all steps in which the rate rises.
        augment: random flips and shifts.
        optimizer: `adamw`, `adam` or `sgd` (without momentum).
        schedule: `cosine`, after the warm-up, or `constant`, without one.
    """

    epochs: int
    batch_size: int
    rate: float = 1e-3
    decay: float = 0.05
    smoothing: float = 0.1
    warm_up: float = 0.1
    augment: bool = False
    optimizer: str = "adamw"
    schedule: str = "cosine"


# What tutorials do: a library's optimiser at one rate, and nothing else. Names of `Settings.recipe`.
_NAIVE_RATES = {"naive_adam": ("adam", 1e-3), "naive_sgd": ("sgd", 0.1)}

# With the backbone frozen the problem is convex, a step costs next to nothing on features that are computed once, and
# a probe is judged at convergence (Kumar et al., ICLR 2022), so it takes more and larger steps.
_PROBE_RATE = 1e-2
_PROBE_EPOCHS = 8
# A plain network (VGG without BatchNorm, AlexNet) loses its units at rates that normalised ones bear.
_PLAIN = 0.3


def recipe_for(policy: str, settings: Settings, *, normalised: bool) -> Recipe:
    """The recipe with which a policy is trained.

    Args:
        policy: its name.
        settings: recipe, epochs, batch size, augmentation, and a rate in place of the recipe's own.
        normalised: whether the network has normalisation layers.
    """
    recipe = _known(policy, settings, normalised)
    return replace(recipe, rate=settings.rate) if settings.rate else recipe


def _known(policy: str, settings: Settings, normalised: bool) -> Recipe:
    if settings.recipe in _NAIVE_RATES:
        optimizer, rate = _NAIVE_RATES[settings.recipe]
        return Recipe(
            settings.epochs, settings.batch_size, rate, decay=0.0, smoothing=0.0, warm_up=0.0, augment=settings.augment,
            optimizer=optimizer, schedule="constant",
        )  # fmt: skip
    recipe = Recipe(settings.epochs, settings.batch_size, augment=settings.augment)
    if policy == "linear_probe":
        return replace(recipe, epochs=_PROBE_EPOCHS * recipe.epochs, rate=_PROBE_RATE)
    return recipe if normalised else replace(recipe, rate=recipe.rate * _PLAIN)


def pretraining_recipe(settings: Settings, *, normalised: bool) -> Recipe:
    """The recipe with which a source backbone is trained, from scratch.

    Without label smoothing: it pulls the images of a class together, and features then transfer worse (Kornblith et
    al., "Why do better loss functions lead to less transferable features?", NeurIPS 2021).
    """
    rate = Recipe.rate * (1.0 if normalised else _PLAIN)
    return Recipe(settings.pretrain_epochs, settings.pretrain_batch_size, rate, smoothing=0.0, augment=settings.augment)
