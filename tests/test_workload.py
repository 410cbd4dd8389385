from dataclasses import replace
from typing import Any

import pytest
import torch

from fashiontl.core.case import PRESETS, Case
from fashiontl.models.ensembles import MeanOfProbabilities
from fashiontl.runner.messages import CaseJob
from fashiontl.runner.workload import Workload, answering

ARCHITECTURE = "shufflenet_v2_x0_5"
SETTINGS = replace(PRESETS["smoke"], test_per_class=3, seconds=0.01)

pytestmark = pytest.mark.usefixtures("one_thread")


def workload(architecture: str = ARCHITECTURE, policy: str = "linear_probe", **settings: Any) -> Workload:
    return Workload.of(CaseJob(Case(architecture, policy, weights="none"), replace(SETTINGS, **settings)))


def test_a_timed_step_runs_every_stage_and_moves_only_what_trains() -> None:
    """Reuse of a frozen prefix would make a probe's step look cheaper than it is."""
    work = workload()
    (initial,) = work.starts()
    network = initial.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen: list[str] = []
    for name, stage in network.stages.items():
        stage.register_forward_hook(lambda module, inputs, output, name=name: seen.append(name))
    call = work.training_step([initial])
    call()
    call()
    assert seen == list(network.stage_names) * 2
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert len(moved) == 2
    assert all(name.startswith("stages.head.") for name in moved)
    assert all(torch.allclose(network.state_dict()[name], before[name], atol=1e-5) for name in moved)


def test_a_step_of_a_mean_is_a_step_of_each_member() -> None:
    work = workload(f"mean:{ARCHITECTURE}+resnet9", "full")
    starts = work.starts()
    networks = [initial.network for initial in starts]
    before = [network.head_layer.weight.detach().clone() for network in networks]
    work.training_step(starts)()
    assert not any(torch.equal(n.head_layer.weight, old) for n, old in zip(networks, before, strict=True))
    assert isinstance(answering(networks), MeanOfProbabilities)
    assert answering(networks[:1]) is networks[0]


def test_the_size_is_one_that_every_member_takes() -> None:
    assert workload("vit_b_32", "full").random_images(2).shape == (2, 3, 32, 32)
    assert workload("mean:alexnet+resnet18", "full").random_images(1).shape == (1, 3, 63, 63)
    assert torch.equal(workload().random_images(3), workload().random_images(3))
    sized = replace(Case(ARCHITECTURE, "scratch"), image_size=40, batch=7)
    work = Workload.of(CaseJob(sized, SETTINGS))
    assert work.random_images(work.settings.throughput_batch).shape == (7, 3, 40, 40)


def test_what_trains_is_counted_where_most_does() -> None:
    for policy, same in (("lp_ft", "full"), ("progressive_freeze", "full")):
        one, other = workload(policy=policy, epochs=4), workload(policy=same)
        counts = [work.trainable_parameters(work.networks()[0]) for work in (one, other)]
        assert counts[0] == counts[1] > 0


def test_periods_have_one_plan_each() -> None:
    def periods(policy: str, epochs: int) -> list[tuple[int, float]]:
        work = workload(policy=policy, epochs=epochs)
        return work.periods(work.networks())

    assert periods("full", 7) == [(0, 1.0)]
    assert periods("lp_ft", 5) == [(0, 0.4), (2, 0.6)]
    # The head, three stages and the stem: after five epochs everything trains.
    assert periods("gradual_unfreeze", 10) == [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1), (4, 0.6)]


@pytest.mark.parametrize(("recipe", "kind"), [("tuned", "AdamW"), ("naive_sgd", "SGD")])
def test_a_timed_step_is_of_the_recipes_optimizer(recipe: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("AdamW", "Adam", "SGD"):
        monkeypatch.setattr(getattr(torch.optim, name), "step", lambda self: steps.append(type(self).__name__))
    work = workload("resnet9", "full", recipe=recipe)
    work.training_step(work.starts())()
    assert steps == [kind]
