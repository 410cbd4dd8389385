"""Verification that training kept its policy: copies before, a comparison bit for bit after."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fashiontl.freezing.apply import in_training_mode, planned_modules, trains
from fashiontl.freezing.policies import Plan
from fashiontl.models.network import Network

# Integers of each element size: compared as floats, NaN would differ from itself and -0.0 would equal 0.0.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class PolicyProof:
    """Whether training kept its policy. Numbers are of tensors, each counted once over all spans.

    Attributes:
        holds: there are no violations.
        frozen_parameters: that were frozen in some span.
        frozen_buffers: running statistics and constants that were frozen in some span.
        trained_parameters: that should train in some span and changed.
        unmoved: names of parameters that should train and never changed; not a violation, since a unit may be dead.
        violations: what was not kept, one sentence a stage and kind.
    """

    holds: bool
    frozen_parameters: int
    frozen_buffers: int
    trained_parameters: int
    unmoved: tuple[str, ...]
    violations: tuple[str, ...]


class _Verified(NamedTuple):
    """A parameter, or a buffer that is frozen, with its value."""

    stage: str
    kind: str
    trains: bool
    value: Tensor


class FreezeVerifier:
    """Verifies over one or more spans of training, each under one plan, that a network trains as planned.

    Call `begin` before a span and `end` after it, while the modes are still those of training. What is frozen is read
    from the plan and not from `requires_grad`, so that training code cannot unfreeze a tensor unnoticed.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._plan: Plan | None = None
        self._before: dict[str, _Verified] = {}
        self._frozen: dict[str, set[str]] = {"parameter": set(), "buffer": set()}
        # Ordered sets: several spans may break the policy in the same way.
        self._should_train: dict[str, None] = {}
        self._violations: dict[str, None] = {}
        self._moved: set[str] = set()

    def begin(self, plan: Plan) -> None:
        """Copy every parameter, and every buffer that the plan freezes."""
        self._plan = plan
        self._before = {name: held._replace(value=held.value.clone()) for name, held in _verified(self._network, plan)}

    def end(self) -> None:
        """Compare with the copies."""
        assert self._plan is not None, "end() without begin()"
        now = {name: held.value for name, held in _verified(self._network, self._plan)}
        moved = {name for name, old in self._before.items() if not _same_bits(old.value, now.get(name))}
        training_modules = [
            name
            for planned, name, module in planned_modules(self._network, self._plan)
            if module.training and not in_training_mode(planned, module)
        ]
        for stage in self._network.stages:
            before = {name: old for name, old in self._before.items() if old.stage == stage}
            found = {}
            for kind, names in self._frozen.items():
                frozen = [name for name, old in before.items() if old.kind == kind and not old.trains]
                names.update(frozen)
                found[f"frozen {kind}s changed"] = [name for name in frozen if name in moved]
            training = [name for name, old in before.items() if old.trains]
            self._should_train.update(dict.fromkeys(training))
            self._moved.update(moved.intersection(training))
            found["parameters should train and none moved"] = [] if moved.intersection(training) else training
            found["modules should be in eval mode and are not"] = [
                name for name in training_modules if name.split(".")[0] == stage
            ]
            for what, faulty in found.items():
                if faulty:
                    self._violations[f"{what}: {len(faulty)} in {stage}, first {faulty[0]}"] = None
        self._plan, self._before = None, {}

    def result(self) -> PolicyProof:
        """The proof over all spans, each of which has ended."""
        return PolicyProof(
            holds=not self._violations,
            frozen_parameters=len(self._frozen["parameter"]),
            frozen_buffers=len(self._frozen["buffer"]),
            trained_parameters=len(self._moved),
            unmoved=tuple(name for name in self._should_train if name not in self._moved),
            violations=tuple(self._violations),
        )


def _verified(network: Network, plan: Plan) -> Iterator[tuple[str, _Verified]]:
    """Every parameter, and every buffer that a plan freezes, by name."""
    for planned, path, module in planned_modules(network, plan):
        stage = path.split(".")[0]
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            yield name, _Verified(stage, "parameter", trains(planned, module, name), parameter.detach())
        if not in_training_mode(planned, module):
            for name, buffer in module.named_buffers(prefix=path, recurse=False):
                yield name, _Verified(stage, "buffer", False, buffer)


def _same_bits(before: Tensor, now: Tensor | None) -> bool:
    if now is None or now.dtype != before.dtype or now.shape != before.shape:
        return False
    integers = _INTEGERS[before.element_size()]
    return torch.equal(before.view(integers), now.to(before.device).view(integers))
