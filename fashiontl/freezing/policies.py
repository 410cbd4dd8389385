"""The freezing policies: pure functions from stage names and epoch to a plan. They never see a model.

To add one, add an entry to the table at the end; the tests run over it.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from fashiontl.core.errors import FashiontlError, SkippedError

Trains = Literal["none", "all", "normalisation", "bias", "adapters"]
Normalisation = Literal["eval", "affine_eval", "batch"]

# The library that makes adapters, and what installs it.
ADAPTERS = "peft"
_INSTALLED_BY = {ADAPTERS: "'fashiontl[lora]'"}

# A pretrained backbone needs smaller steps than a head that starts at random: 3e-4 against 1e-3 with AdamW.
BACKBONE_LR_SCALE = 0.3
# Each stage further from the head learns this much slower. MAE fine-tunes vision transformers with 0.75 a layer (He et
# al., CVPR 2022); ULMFiT divides by 2.6 a layer, but its network has three.
DEPTH_DECAY = 0.75


@dataclass(frozen=True)
class StagePlan:
    """What one stage does during one epoch.

    Attributes:
        trains: which parameters train: `none`, `all`, only those of `normalisation` layers, only each `bias`, or only
            the `adapters` that `fashiontl.freezing.lora.prepare` put beside frozen layers.
        normalisation: what layers with running statistics (BatchNorm) do: `eval` normalises by the frozen
            statistics and freezes scale and shift, whatever `trains` says; `affine_eval` normalises by the frozen
            statistics while scale and shift train as `trains` says; `batch` normalises by the batch and updates the
            statistics. Layers without running statistics (LayerNorm, GroupNorm) only follow `trains`.
        lr_scale: multiplies the recipe's learning rate; 0 exactly where nothing trains.

    Raises:
        FashiontlError: a field is out of its range, or two of them contradict each other.
    """

    trains: Trains
    normalisation: Normalisation
    lr_scale: float

    def __post_init__(self) -> None:
        errors = [
            f"{field}: expected one of {', '.join(get_args(known))}, got {getattr(self, field)!r}"
            for field, known in (("trains", Trains), ("normalisation", Normalisation))
            if getattr(self, field) not in get_args(known)
        ]
        if self.trains == "none" and self.lr_scale != 0:
            errors.append(f"lr_scale: expected 0 where nothing trains, got {self.lr_scale}")
        if self.trains != "none" and not 0 < self.lr_scale < math.inf:
            errors.append(f"lr_scale: expected a finite number above 0 where something trains, got {self.lr_scale}")
        if self.trains == "normalisation" and self.normalisation == "eval":
            errors.append("normalisation: expected affine_eval or batch where normalisation trains, got 'eval'")
        if errors:
            raise FashiontlError("stage plan: " + "; ".join(errors))


# One entry a stage, in order of execution.
Plan = tuple[StagePlan, ...]
# From stage names, epoch and number of epochs.
Planner = Callable[[tuple[str, ...], int, int], Plan]


@dataclass(frozen=True)
class Policy:
    """One row of the table of freezing policies.

    Attributes:
        title: what trains.
        source: where the term comes from.
        plan: from the stage names in order of execution (the last is `head`, before it perhaps `neck`), the epoch
            from 0, and the number of epochs, to the plan of that epoch. It raises `SkippedError` for a network that has
            too few stages.
        needs_weights: whether the policy means nothing without pretrained weights.
        library: that must be installed; empty without one. A policy that trains `adapters` needs peft.
    """

    name: str
    title: str
    source: str
    plan: Planner
    needs_weights: bool = True
    library: str = ""


_FROZEN = StagePlan("none", "eval", 0.0)
_FULL = StagePlan("all", "batch", 1.0)
_SLOWER = StagePlan("all", "batch", BACKBONE_LR_SCALE)


def _decayed(depth: int) -> StagePlan:
    return StagePlan("all", "batch", DEPTH_DECAY**depth)


def _depths(names: tuple[str, ...]) -> tuple[int, ...]:
    """How far each stage is from the head: 0 the head, 1 the last feature stage and the neck, which belongs with it."""
    features = sum(name not in {"neck", "head"} for name in names)
    return tuple({"head": 0, "neck": 1}.get(name, features - number) for number, name in enumerate(names))


def _by_depth(names: tuple[str, ...], stage: Callable[[int], StagePlan]) -> Plan:
    """A plan whose head trains at the full learning rate, and whose other stages do what their depth says."""
    return tuple(stage(depth) if depth else _FULL for depth in _depths(names))


def _always(stage: StagePlan) -> Planner:
    """The same plan for every stage but the head, in every epoch."""
    return lambda names, epoch, epochs: _by_depth(names, lambda depth: stage)


def _last(count: int) -> Planner:
    def plan(names: tuple[str, ...], *_: int) -> Plan:
        deepest = max(_depths(names))
        if count > deepest:
            raise SkippedError(
                f"expected at least {count} stages before the head, got {deepest} ({', '.join(names)}); use full"
            )
        return _by_depth(names, lambda depth: _FULL if depth <= count else _FROZEN)

    return plan


def _surgical(chosen: str) -> Planner:
    def plan(names: tuple[str, ...], *_: int) -> Plan:
        if chosen not in names:
            raise SkippedError(
                f"expected a stage called {chosen}, got {', '.join(names)}; choose a surgical policy of those"
            )
        chosen_depth = _depths(names)[names.index(chosen)]
        return _by_depth(names, lambda depth: _FULL if depth == chosen_depth else _FROZEN)

    return plan


def _probe_then_full(names: tuple[str, ...], epoch: int, epochs: int) -> Plan:
    """The head alone for half of the epochs (at least one), then everything at one lower learning rate.

    The head is no longer random in the second part, so it takes no larger steps than the backbone.
    """
    if epoch < max(1, epochs // 2):
        return _by_depth(names, lambda depth: _FROZEN)
    return (_SLOWER,) * len(names)


def _progressive_freeze(names: tuple[str, ...], epoch: int, epochs: int) -> Plan:
    """Everything at first, then evenly fewer stages from the bottom; the last epoch still trains one with the head."""
    deepest = max(_depths(names))
    training = deepest - deepest * epoch // epochs
    return _by_depth(names, lambda depth: _SLOWER if depth <= training else _FROZEN)


_LAST = "fastai freeze_to(-k); timm freeze"
_SURGICAL = "Lee et al. (surgical fine-tuning), ICLR 2023"
_KERAS = "Keras guide to transfer learning"
_ULMFIT = "Howard and Ruder (ULMFiT), ACL 2018"

# name, what trains, source, plan
_ALL = (
    Policy("scratch", "all, from a random start", "the control", _always(_FULL), needs_weights=False),
    Policy("linear_probe", "the head", f"{_KERAS}; Oquab et al. (DINOv2), TMLR 2024", _always(_FROZEN)),
    Policy("last_stage", "the last stage and the head", _LAST, _last(1)),
    Policy("last_2", "the last two stages and the head", _LAST, _last(2)),
    Policy("last_3", "the last three stages and the head", _LAST, _last(3)),
    Policy("full", "all, the backbone at a lower learning rate", "PyTorch tutorial on fine-tuning", _always(_SLOWER)),
    Policy(
        "full_frozen_bn",
        "all but BatchNorm, which stays as it was pretrained",
        f"{_KERAS}; torchvision FrozenBatchNorm2d",
        _always(StagePlan("all", "eval", BACKBONE_LR_SCALE)),
    ),
    Policy(
        "bn_only",
        "normalisation layers (on batch statistics) and the head",
        "Frankle et al., ICLR 2021",
        _always(StagePlan("normalisation", "batch", 1.0)),
    ),
    Policy(
        "bias_only",
        "each bias, those of normalisation too (on frozen statistics), and the head",
        "Cai et al. (TinyTL), NeurIPS 2020; Ben Zaken et al. (BitFit), ACL 2022",
        # A convolution before BatchNorm has no bias but BatchNorm's, so `eval` would leave a ResNet nothing to train.
        _always(StagePlan("bias", "affine_eval", 1.0)),
    ),
    Policy("lp_ft", "the head for half of the epochs, then all", "Kumar et al. (LP-FT), ICLR 2022", _probe_then_full),
    Policy(
        "gradual_unfreeze",
        "the head, and one stage more each epoch from the top, lower ones slower",
        _ULMFIT,
        lambda names, epoch, epochs: _by_depth(names, lambda depth: _decayed(depth) if depth <= epoch else _FROZEN),
    ),
    Policy(
        "discriminative",
        "all, lower stages slower",
        f"{_ULMFIT}; timm layer decay",
        lambda names, epoch, epochs: _by_depth(names, _decayed),
    ),
    *(Policy(f"surgical_{n}", f"stage{n} and the head", _SURGICAL, _surgical(f"stage{n}")) for n in range(1, 5)),
    Policy(
        "progressive_freeze",
        "all at first, then fewer stages from the bottom",
        "Brock et al. (FreezeOut), 2017; Liu et al. (AutoFreeze), 2021; Composer layer freezing",
        _progressive_freeze,
    ),
    Policy(
        "lora",
        "low-rank adapters beside linear layers and convolutions, and the head",
        "Hu et al. (LoRA), ICLR 2022",
        _always(StagePlan("adapters", "eval", 1.0)),
        library=ADAPTERS,
    ),
)


def unavailable_reason(library: str) -> str | None:
    """Why a policy that needs a library cannot run here; None if it is installed, or none is needed."""
    if not library or importlib.util.find_spec(library.partition(".")[0]) is not None:
        return None
    return f"needs the library {library}; pip install {_INSTALLED_BY.get(library, library)}"


POLICIES: dict[str, Policy] = {policy.name: policy for policy in _ALL}
