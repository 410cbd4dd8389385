"""Training that diverges, through the phases that train, and what becomes of its record."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from phase_runs import flat
from torch import Tensor

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import DivergedError
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob
from fashiontl.runner.phases import accuracy
from fashiontl.training import pretraining

ARCHITECTURE = "shufflenet_v2_x0_5"
SETTINGS = replace(PRESETS["smoke"], test_per_class=3, seeds=2, lr=1e20)

pytestmark = pytest.mark.usefixtures("as_in_a_worker")


def diverging(
    case: Case, settings: Settings = SETTINGS, phase: Any = phases.train, **more: Any
) -> tuple[DivergedError, dict[str, Any]]:
    with pytest.raises(DivergedError) as caught:
        phase(CaseJob(case, settings, **more), lambda text: None)
    known = flat(caught.value.value)
    assert "accuracy" not in known
    return caught.value, known


@pytest.mark.parametrize(
    ("policy", "recipe"), [("scratch", "tuned"), ("linear_probe", "naive_adam"), ("full", "naive_sgd")]
)
def test_a_rate_of_1e20_diverges_whatever_the_policy_and_recipe(policy: str, recipe: str) -> None:
    error, known = diverging(Case(ARCHITECTURE, policy, weights="none"), replace(SETTINGS, recipe=recipe))
    found = known["divergence"]
    assert (found["seed"], found["architecture"], found["lr"]) == (0, ARCHITECTURE, 1e20)
    assert 1 <= found["epoch"] <= found["epochs"]
    assert 1 <= found["step"] <= found["steps"] == 2
    assert f"seed 1 of 2, epoch {found['epoch']} of {found['epochs']}, step {found['step']} of 2" in str(error)
    assert "--set lr=" in str(error)
    assert known["data"]["sha256"]
    assert (known["weights"], known["recipe"]["lr"]) == ({"name": "none"}, 1e20)


def test_a_later_seed_that_diverges_keeps_the_losses_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = accuracy.predict, []

    def predict(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return real(*arguments, **options) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(accuracy, "predict", predict)
    error, known = diverging(Case(ARCHITECTURE, "scratch"), replace(SETTINGS, lr=0.0))
    assert "seed 2 of 2, epoch 1 of 1, step 2 of 2: got a logit of nan on the test images" in str(error)
    assert [len(losses) for losses in known["losses"]] == [1, 1]


def test_a_member_of_a_hybrid_that_diverges_is_named() -> None:
    case = Case(f"mean:{ARCHITECTURE}+squeezenet1_1", "full", weights="none")
    error, known = diverging(case)
    assert known["divergence"]["architecture"] == ARCHITECTURE
    assert known["weights"] == {ARCHITECTURE: {"name": "none"}}
    assert f", {ARCHITECTURE}, epoch 1 of 1" in str(error)


def test_pretraining_that_diverges_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pretraining.pretraining_recipe
    hot = lambda *arguments, **options: replace(real(*arguments, **options), lr=1e20)  # noqa: E731
    case, settings = Case(ARCHITECTURE, "full"), replace(SETTINGS, lr=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "pretraining_recipe", hot)
        error, known = diverging(case, settings, phases.pretrain, cache=str(tmp_path))
    assert known["divergence"]["task"] == "fashion6"
    assert str(error).startswith(f"pretraining {ARCHITECTURE} on fashion6, epoch 1 of 1, step ")
    assert "--weights" in str(error)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in {".pt", ".json"}] == []
    made = phases.pretrain(CaseJob(case, settings, cache=str(tmp_path)), lambda text: None)
    assert made.provenance["pretraining"]["cached"] is False
