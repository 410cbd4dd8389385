"""Whether losses, logits and weights are still finite, and if not, since which step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fashiontl.core.errors import DivergedError
from fashiontl.freezing.apply import has_statistics
from fashiontl.training.recipes import Recipe

# From here on float32 has no fraction, so softmax no longer tells one answer from another.
_LARGEST_LOGIT = 2.0**24


def in_step(loss: float, logit: float) -> str:
    """What of a step's loss and its batch's largest logit is not finite; empty if both are."""
    if math.isfinite(loss) and math.isfinite(logit):
        return ""
    return f"a loss of {loss:g}" + ("" if math.isfinite(logit) else f" and a logit of {logit:g}")


def in_answers(logits: Tensor, images: str) -> str:
    """The largest logit, of float32 `[n, classes]`, if it is not finite or too large to be distinguished; else empty.

    `images` says which were classified: `test` or `validation`.
    """
    largest = torch.linalg.vector_norm(logits, math.inf).item()
    return "" if largest < _LARGEST_LOGIT else f"a logit of {largest:.3g} on the {images} images"


def in_weights(network: nn.Module) -> str:
    """Parameters and running statistics that are not finite, the first by its name; empty if all are."""
    named: dict[str, Tensor] = dict(network.named_parameters())
    for path, module in network.named_modules():
        if has_statistics(module):
            named |= {f"{path}.{name}": value for name, value in module.named_buffers(recurse=False)}
    named = {name: value.detach() for name, value in named.items() if value.is_floating_point() and value.numel()}
    # One small kernel for each, which propagates NaN, and one read of all.
    largest = [torch.linalg.vector_norm(value, math.inf, dtype=torch.float32) for value in named.values()]
    numbers = torch.stack(largest).tolist()
    broken = [f"{name} of {number:g}" for name, number in zip(named, numbers, strict=True) if not math.isfinite(number)]
    more = f" and {len(broken) - 1} other tensors like it" if len(broken) > 1 else ""
    return f"{broken[0]}{more}" if broken else ""


def diverged(
    what: str, recipe: Recipe, where: tuple[int, int], steps: int, losses: Sequence[float] = ()
) -> DivergedError:
    """An error that says what was not finite, and in which epoch and step (`where`, from 0) it was first seen.

    What is seen between two steps counts for the step before. `steps` are those of each epoch, `losses` the mean ones
    of the epochs before. The error's value holds `losses`, and `divergence`: `what`, `lr`, `epoch` and `step` from 1,
    `epochs` and `steps`.
    """
    epoch, step = where[0] + 1, where[1] + 1
    place = {"epoch": epoch, "step": step, "epochs": recipe.epochs, "steps": steps}
    return DivergedError(
        f"epoch {epoch} of {recipe.epochs}, step {step} of {steps}: got {what}, expected finite numbers and logits "
        f"below {_LARGEST_LOGIT:,.0f}; the peak learning rate was {recipe.lr:g}",
        {"divergence": {"what": what, "lr": recipe.lr, **place}, "losses": list(losses)},
    )
