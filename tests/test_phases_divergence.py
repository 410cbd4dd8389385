"""Training that diverges, through the phases that train, and what becomes of its record."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import DivergedError
from fashiontl.runner import phases
from fashiontl.runner.phases import accuracy
from fashiontl.training import pretraining

ARCHITECTURE = "shufflenet_v2_x0_5"
SETTINGS = replace(PRESETS["smoke"], test_per_class=3, seeds=2, lr=1e20)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def as_in_a_worker() -> Iterator[None]:
    filling = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filling


def diverging(case: Case, settings: Settings = SETTINGS, phase: Any = phases.train, **more: Any) -> DivergedError:
    with pytest.raises(DivergedError) as caught:
        phase({"case": asdict(case), "settings": asdict(settings), **more}, lambda text: None)
    json.dumps(caught.value.value, allow_nan=False)
    assert "accuracy" not in caught.value.value
    return caught.value


@pytest.mark.parametrize("recipe", ["tuned", "naive_adam", "naive_sgd"])
@pytest.mark.parametrize("policy", ["scratch", "linear_probe", "full", "bn_only", "lp_ft"])
def test_a_rate_of_1e20_diverges_whatever_the_policy_and_recipe(policy: str, recipe: str) -> None:
    error = diverging(Case(ARCHITECTURE, policy, weights="none"), replace(SETTINGS, recipe=recipe))
    found = error.value["divergence"]
    assert (found["seed"], found["architecture"], found["lr"]) == (0, ARCHITECTURE, 1e20)
    assert 1 <= found["epoch"] <= found["epochs"]
    assert 1 <= found["step"] <= found["steps"] == 2
    assert f"seed 1 of 2, epoch {found['epoch']} of {found['epochs']}, step {found['step']} of 2" in str(error)
    assert "--set lr=" in str(error)
    assert error.value["data"]["sha256"]
    assert (error.value["weights"], error.value["recipe"]["lr"]) == ({"name": "none"}, 1e20)


def test_a_later_seed_that_diverges_keeps_the_losses_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = accuracy.predict, []

    def predict(*arguments: Any) -> Tensor:
        calls.append(1)
        return real(*arguments) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(accuracy, "predict", predict)
    error = diverging(Case(ARCHITECTURE, "scratch"), replace(SETTINGS, lr=0.0))
    assert "seed 2 of 2, epoch 1 of 1, step 2 of 2: got a logit of nan on the test images" in str(error)
    assert [len(losses) for losses in error.value["losses"]] == [1, 1]


def test_a_member_of_a_hybrid_that_diverges_is_named() -> None:
    case = Case(f"mean:{ARCHITECTURE}+squeezenet1_1", "full", weights="none")
    error = diverging(case)
    assert error.value["divergence"]["architecture"] == ARCHITECTURE
    assert error.value["weights"] == {ARCHITECTURE: {"name": "none"}}
    assert f", {ARCHITECTURE}, epoch 1 of 1" in str(error)


def test_pretraining_that_diverges_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pretraining.pretraining_recipe
    hot = lambda *arguments, **options: replace(real(*arguments, **options), lr=1e20)  # noqa: E731
    case, settings = Case(ARCHITECTURE, "full"), replace(SETTINGS, lr=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "pretraining_recipe", hot)
        error = diverging(case, settings, phases.pretrain, cache=str(tmp_path))
    assert error.value["divergence"]["task"] == "fashion6"
    assert str(error).startswith(f"pretraining {ARCHITECTURE} on fashion6, epoch 1 of 1, step ")
    assert "--weights" in str(error)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in {".pt", ".json"}] == []
    job = {"case": asdict(case), "settings": asdict(settings), "cache": str(tmp_path)}
    assert phases.pretrain(job, lambda text: None)["pretraining"]["cached"] is False
