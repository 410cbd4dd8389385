"""How weights are fitted: fixed numbers, chosen without any test image. No torch."""

from dataclasses import dataclass

from fashiontl.case import Settings


@dataclass(frozen=True)
class Recipe:
    """How weights are fitted.

    AdamW with decoupled decay, linear warm-up and cosine decay (Loshchilov and Hutter, ICLR 2017 and 2019), label
    smoothing (Szegedy et al., CVPR 2016).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        rate: peak learning rate of the head; a plan's own rates multiply it.
        decay: weight decay, not applied to one-dimensional parameters.
        smoothing: label smoothing.
        warm_up: fraction of all steps in which the rate rises.
        augment: random flips and shifts.
    """

    epochs: int
    batch_size: int
    rate: float = 1e-3
    decay: float = 0.05
    smoothing: float = 0.1
    warm_up: float = 0.1
    augment: bool = False


# Peak rates of the head that are not `Recipe.rate`. With the backbone frozen the problem is convex and the steps
# are few, so it bears a higher one.
_RATES = {"linear_probe": 1e-2}


def recipe_for(policy: str, settings: Settings) -> Recipe:
    """The recipe with which a policy is trained."""
    return Recipe(settings.epochs, settings.batch_size, rate=_RATES.get(policy, Recipe.rate), augment=settings.augment)


def pretraining_recipe(settings: Settings) -> Recipe:
    """The recipe with which a source backbone is trained, from scratch."""
    return Recipe(settings.pretrain_epochs, settings.batch_size, augment=settings.augment)
