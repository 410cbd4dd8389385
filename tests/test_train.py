import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fashiontl.core.errors import DivergedError, FashiontlError
from fashiontl.data.preprocessing import Preprocessing
from fashiontl.freezing import POLICIES, StagePlan
from fashiontl.machine.devices import DEVICES, Cpu
from fashiontl.models.network import Network
from fashiontl.training import fit as fit_module
from fashiontl.training.divergence import in_answers, in_weights
from fashiontl.training.fit import Examples, Fit, fit, lr_factor
from fashiontl.training.prefix import FeatureStore
from fashiontl.training.recipes import Recipe

CLASSES = 4
RECIPE = Recipe(epochs=4, batch_size=8)
PREPROCESSING = Preprocessing(32)


pytestmark = pytest.mark.usefixtures("one_thread")


def block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=4, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.Tanh()]


def tiny(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    stages = {"stage1": block(3, 4), "stage2": block(4, 8), "neck": [nn.AdaptiveAvgPool2d(1), nn.Flatten()]}
    return Network({**stages, "head": [nn.Linear(8, CLASSES)]})


def examples(count: int = 24) -> Examples:
    """Images whose class is the quarter that is bright."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 100, (count, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[14 * (label // 2) :, 14 * (label % 2) :][:14, :14] += 150
    return Examples(images, labels)


def trained(policy: str = "full", *, seed: int = 0, recipe: Recipe = RECIPE, **options: Any) -> tuple[Network, Fit]:
    network = tiny()
    return network, fit(network, POLICIES[policy], examples(), recipe, PREPROCESSING, seed=seed, **options)


def state(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: Network, other: Network) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_seconds_are_read_off_the_clock_after_the_device_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((100.0, 142.5, 200.0, 201.0))
    events: list[str] = []

    def clock() -> float:
        events.append("clock")
        return next(times)

    monkeypatch.setattr(Cpu, "synchronize", lambda device: events.append(f"wait for {device.name}"))
    _, result = trained(recipe=Recipe(2, 8), clock=clock, progress=lambda epoch: events.append(str(epoch)))
    assert result.seconds == 43.5
    assert events == [
        "0", "wait for cpu", "clock", "wait for cpu", "clock",
        "1", "wait for cpu", "clock", "wait for cpu", "clock",
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["linear_probe", "full", "gradual_unfreeze", "lp_ft"])
def test_the_best_epoch_on_the_validation_images_is_kept(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = examples(40).labels
    right = iter((10, 30, 30, 20))
    states: list[dict[str, Tensor]] = []

    def answers(network: Network, *_: Any) -> Tensor:
        states.append(state(network))
        network.eval()
        chosen = (labels + (torch.arange(40) >= next(right))) % CLASSES
        return nn.functional.one_hot(chosen, CLASSES).float()

    monkeypatch.setattr(fit_module, "predict", answers)
    network, result = trained(policy, validation=examples(40))
    assert result.validation == (0.25, 0.75, 0.75, 0.5)
    assert result.chosen == 1
    assert all(torch.equal(value, states[1][name]) for name, value in network.state_dict().items())
    assert result.proof.holds


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_a_naive_recipe_steps_as_the_plain_optimizer_does(name: str, kind: Callable[..., Any]) -> None:
    plain_recipe: dict[str, Any] = {"weight_decay": 0.0, "label_smoothing": 0.0, "warm_up": 0.0, "schedule": "constant"}
    recipe = Recipe(3, 24, 0.01, optimizer=name, **plain_recipe)
    network, _ = trained("scratch", recipe=recipe)
    plain = tiny().train()
    optimizer = kind(plain.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        order = torch.randperm(24, generator=generator)
        optimizer.zero_grad()
        inputs = PREPROCESSING(examples().images[order])
        nn.functional.cross_entropy(plain(inputs), examples().labels[order]).backward()
        optimizer.step()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("augment", [False, True])
def test_a_seed_decides_everything(augment: bool) -> None:
    recipe = Recipe(2, 8, augment=augment)
    first, one = trained(recipe=recipe)
    again, two = trained(recipe=recipe)
    other, three = trained(recipe=recipe, seed=1)
    assert same(first, again)
    assert one.losses == two.losses
    assert not same(first, other)
    assert one.losses != three.losses


def test_losses_are_means_over_images_not_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "lr_factor", lambda step, steps, warm_up: 0.0)
    network = tiny()
    inputs = PREPROCESSING(examples(22).images)
    network.train()
    network.stages["stage1"].eval()
    network.stages["stage2"].eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(network(inputs), examples(22).labels, label_smoothing=0.1).item()
    result = fit(network, POLICIES["linear_probe"], examples(22), Recipe(1, 8), PREPROCESSING, seed=0)
    assert result.losses == (pytest.approx(expected, rel=1e-5),)


@pytest.mark.parametrize(
    ("policy", "reused"), [("linear_probe", 3), ("last_stage", 1), ("lp_ft", 3), ("surgical_2", 1), ("full", 0)]
)
def test_reuse_of_a_frozen_prefix_changes_no_result(policy: str, reused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, with_reuse = trained(policy, store=FeatureStore())
    monkeypatch.setattr(fit_module, "FEATURE_BUDGET", 0)
    unfit, without_room = trained(policy, store=FeatureStore())
    plain, without = trained(policy)
    assert (with_reuse.reused_stages, without_room.reused_stages, without.reused_stages) == (reused, 0, 0)
    assert same(kept, plain)
    assert same(unfit, plain)
    assert with_reuse.losses == without_room.losses == without.losses
    assert with_reuse.proof.holds
    assert without.proof.holds


def test_images_without_room_on_a_device_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples()
    for free, where in ((None, "meta"), (4 * given.images.nbytes, "meta"), (4 * given.images.nbytes - 1, "cpu")):
        monkeypatch.setattr(Cpu, "free_memory", lambda device, free=free: free)
        monkeypatch.setitem(DEVICES, "meta", Cpu)
        placed = given.on("meta")
        assert (placed.images.device.type, placed.labels.device.type) == (where, "meta")


@settings(max_examples=20)
@given(st.integers(2, 300), st.integers(1, 64))
def test_each_image_comes_once_an_epoch(count: int, batch_size: int) -> None:
    plan = POLICIES["full"].plan(("stage1", "stage2", "neck", "head"), 0, 1)
    images = torch.zeros(count, 1, 1, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    batches = fit_module.Batches(tiny(), plan, images, Recipe(1, batch_size), Preprocessing(1), generator)
    chosen = [indices for indices, _ in batches]
    assert torch.cat(chosen).sort().values.tolist() == list(range(count))
    sizes = [len(indices) for indices in chosen]
    assert len(sizes) == math.ceil(count / batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_the_rate_at_known_steps() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * number for number in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.000305, abs=1e-6)


class Spy:
    """Keeps each optimiser that training makes, and the age in steps of its parameters' state as it is made."""

    def __init__(self, make: Callable[..., torch.optim.Optimizer]) -> None:
        self.make = make
        self.ages: list[dict[str, float]] = []
        self.rates: list[dict[str, float]] = []

    def __call__(self, network: Network, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = self.make(network, *arguments)
        names = {parameter: name for name, parameter in network.stages.named_parameters()}
        chosen = [(names[p], p, group["peak_lr"]) for group in optimizer.param_groups for p in group["params"]]
        self.ages.append({name: float(optimizer.state.get(p, {}).get("step", 0)) for name, p, _ in chosen})
        self.rates.append({name: rate for name, _, rate in chosen})
        return optimizer


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy(fit_module.new_optimizer)
    monkeypatch.setattr(fit_module, "new_optimizer", spy)
    return spy


HEAD = {"head.0.weight", "head.0.bias"}
STAGE1 = {"stage1.0.weight", "stage1.1.weight", "stage1.1.bias"}
STAGE2 = {"stage2.0.weight", "stage2.1.weight", "stage2.1.bias"}


def test_lp_ft_thaws_with_fresh_state_and_the_head_keeps_its_own(spy: Spy) -> None:
    _, result = trained("lp_ft")
    # Three steps an epoch, the head alone for two epochs.
    assert spy.ages == [dict.fromkeys(HEAD, 0), {**dict.fromkeys(HEAD, 6), **dict.fromkeys(STAGE1 | STAGE2, 0)}]
    assert spy.rates[0] == dict.fromkeys(HEAD, 1e-3)
    assert spy.rates[1] == pytest.approx(dict.fromkeys(HEAD | STAGE1 | STAGE2, 3e-4))
    assert result.proof.holds


def test_gradual_unfreeze_thaws_one_stage_an_epoch(spy: Spy) -> None:
    _, result = trained("gradual_unfreeze", store=FeatureStore())
    assert spy.ages == [
        dict.fromkeys(HEAD, 0),
        {**dict.fromkeys(HEAD, 3), **dict.fromkeys(STAGE2, 0)},
        {**dict.fromkeys(HEAD, 6), **dict.fromkeys(STAGE2, 3), **dict.fromkeys(STAGE1, 0)},
    ]
    assert spy.rates[2]["stage1.0.weight"] == pytest.approx(1e-3 * 0.75**2)
    assert (result.proof.holds, result.proof.trained_parameters, result.reused_stages) == (True, 8, 3)


def test_progressive_freeze_forgets_what_it_froze(spy: Spy) -> None:
    _, result = trained("progressive_freeze", store=FeatureStore())
    assert [set(ages) for ages in spy.ages] == [HEAD | STAGE1 | STAGE2, HEAD | STAGE2]
    assert set(spy.ages[1].values()) == {6.0}
    assert (result.proof.holds, result.reused_stages) == (True, 1)


class Spoiled(nn.Module):
    """Passes on what it gets, until a training step's number comes: then one value is another."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__()
        self.steps, self.step, self.value = 0, step, value

    def forward(self, logits: Tensor) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == self.step:
            return logits.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(self.value, dtype=logits.dtype))
        return logits


def spoiled(step: int, value: float, recipe: Recipe = RECIPE, **options: Any) -> DivergedError:
    network = tiny()
    network.stages["head"].append(Spoiled(step, value))
    with pytest.raises(DivergedError) as caught:
        fit(network, POLICIES["full"], examples(), recipe, PREPROCESSING, seed=0, **options)
    return caught.value


# Three steps an epoch.
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize(("number", "epoch", "step"), [(1, 1, 1), (5, 2, 2), (12, 4, 3)])
def test_divergence_is_told_with_its_first_epoch_and_step(value: float, number: int, epoch: int, step: int) -> None:
    error = spoiled(number, value)
    assert error.status == "diverged"
    found = error.value["divergence"]
    assert (found["epoch"], found["step"], found["epochs"], found["steps"]) == (epoch, step, 4, 3)
    assert found["lr"] == RECIPE.lr
    assert len(error.value["losses"]) == epoch - 1
    assert all(map(math.isfinite, error.value["losses"]))
    assert f"epoch {epoch} of 4, step {step} of 3" in str(error)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 2.0**24])
def test_answers_of_no_use_on_the_validation_images_choose_no_epoch(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fit_module.predict
    judged: list[int] = []

    def answers(*arguments: Any) -> Tensor:
        logits = real(*arguments)
        judged.append(len(judged))
        logits[3, 1] = value if len(judged) == 2 else logits[3, 1]
        return logits

    monkeypatch.setattr(fit_module, "predict", answers)
    with pytest.raises(DivergedError, match=r"^epoch 2 of 4, step 3 of 3: got a logit .* on the validation images"):
        trained(validation=examples(8))


def test_weights_that_are_not_finite_at_the_end_are_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "lr_factor", lambda step, steps, warm_up: math.inf if step == 11 else 0.0)
    with pytest.raises(DivergedError, match=r"^epoch 4 of 4, step 3 of 3: got stages\.\S+ of (nan|inf)"):
        trained()


def test_statistics_that_are_not_finite_are_seen() -> None:
    network = tiny()
    assert in_weights(network) == ""
    network.get_buffer("stages.stage2.1.running_var")[3] = math.inf
    assert in_weights(network) == "stages.stage2.1.running_var of inf"
    assert in_answers(torch.tensor([[1.0, -(2.0**24) + 2]]), "test") == ""


def test_looking_for_divergence_reads_the_device_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        real = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda tensor, name=name, real=real: reads.append(name) or real(tensor))
    network, seen = tiny(), []
    fit(
        network,
        POLICIES["scratch"],
        examples(),
        RECIPE,
        PREPROCESSING,
        seed=0,
        progress=lambda _: seen.append(len(reads)),
    )
    # What is read before an epoch is of the proof, which looks at the network before the first.
    assert [after - before for before, after in itertools.pairwise(seen[1:])] == [1, 1]


def test_only_a_batch_that_is_elsewhere_is_copied() -> None:
    images = examples().images
    assert fit_module.copied(images, torch.device("cpu")) is images
    assert fit_module.copied(images, torch.device("meta")).device.type == "meta"


def test_a_plan_under_which_nothing_trains_is_an_error() -> None:
    plan = (StagePlan("none", "eval", 0.0),) * 4
    with pytest.raises(FashiontlError, match="expected a plan under which something trains, got none in the stages"):
        fit_module.new_optimizer(tiny(), plan, RECIPE)
