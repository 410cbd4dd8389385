import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from phase_runs import run
from torch import Tensor

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import Metric
from fashiontl.data.select import TaskData
from fashiontl.freezing.policies import Policy
from fashiontl.machine.devices import Cpu, Device
from fashiontl.matrix.extensions import register
from fashiontl.models.network import Network
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob, ExtraJob
from fashiontl.runner.phases import accuracy, speed, timed_pass
from fashiontl.training.fit import Batches, Examples, Fit

ARCHITECTURE = "shufflenet_v2_x0_5"
SETTINGS = replace(PRESETS["smoke"], test_per_class=3, seconds=0.01)
# torchvision's own numbers for this network with a head of four classes.
PARAMETERS = 341_792 + 1024 * 4 + 4
HEAD = 1024 * 4 + 4


pytestmark = pytest.mark.usefixtures("as_in_a_worker")


def job(case: Case, settings: Settings = SETTINGS, **more: Any) -> CaseJob:
    return CaseJob(case, settings, **more)


SCRATCH = Case(ARCHITECTURE, "scratch")
PROBE = Case(ARCHITECTURE, "linear_probe", weights="none")


def test_training_gives_one_entry_a_seed() -> None:
    lines: list[str] = []
    value = run(phases.train, job(SCRATCH, replace(SETTINGS, seeds=2)), lines)
    for name in ("accuracy", "evaluation", "training_time", "losses", "proofs"):
        assert len(value[name]) == 2, name
    assert value["trials"] == 12
    assert lines == [
        line for seed in (1, 2) for line in (f"training, seed {seed} of 2, epoch 1 of 1", f"testing, seed {seed} of 2")
    ]
    for share, evaluation in zip(value["accuracy"], value["evaluation"], strict=True):
        confusion = evaluation["confusion"]
        assert [sum(row) for row in confusion] == [3, 3, 3, 3]
        assert share == evaluation["accuracy"] == sum(confusion[i][i] for i in range(4)) / 12
    assert [evaluation["right"] for evaluation in value["evaluation"]] == [f"{int(r, 2):03x}" for r in value["right"]]
    assert value["losses"][0] != value["losses"][1]
    assert [proof["holds"] for proof in value["proofs"]] == [True, True]
    assert value["recipe"]["epochs"] == 1
    assert value["weights"] == {"name": "none"}
    assert len(value["data"]["sha256"]) == 64
    assert value["warnings"] == []


def test_a_probe_reuses_all_but_the_head() -> None:
    value = run(phases.train, job(PROBE))
    (proof,) = value["proofs"]
    assert (proof["holds"], proof["trained_parameters"]) == (True, 2)
    assert proof["frozen_parameters"] == 168
    assert value["reused_stages"] == 5, "all but the head of stem, three stages, neck and head"


def test_inference_is_loaded_and_counted() -> None:
    lines: list[str] = []
    value = run(phases.inference, job(PROBE), lines)
    assert lines == ["memory of inference", "inference energy"]
    assert (value["parameters"], value["trainable_parameters"]) == (PARAMETERS, HEAD)
    # 40.8 M multiply-adds at 224 pixels (torchvision's documentation), of which 1 M in a head of 1000 classes.
    assert value["flops"] == pytest.approx(2 * 39.5e6 * (32 / 224) ** 2, rel=0.1)
    assert min(value[name] for name in ("load_time", "first_call_time")) > 0
    assert not {"latency", "inference_throughput", "timing"} & set(value), "those are timed in slices"
    assert value["invalid"] == []
    assert not {"device_latency", "inference_compile_time"} & set(value)
    assert value["base_memory"] > 50 * 2**20
    # This process has had more before; the kernel's counters differ by what cores have not handed in yet.
    whole = value["inference_peak_memory"] + value["base_memory"]
    assert value["inference_process_memory"] == pytest.approx(whole, abs=2**20)


def test_first_steps_have_their_memory_and_time() -> None:
    lines: list[str] = []
    value = run(phases.step, job(SCRATCH), lines)
    assert lines == ["memory of training", "training energy"]
    assert value["training_peak_memory"] >= 0
    assert value["first_step_time"] > 0


def test_a_frozen_prefix_costs_its_forward_pass_alone() -> None:
    flops = {case.policy: run(phases.step, job(case))["training_flops"] for case in (SCRATCH, PROBE)}
    forward = run(phases.inference, job(SCRATCH))["flops"]
    # Forward, and for the head the gradients of its weights: 2 FLOPs for each of 1024 x 4.
    assert flops["linear_probe"] == forward + 2 * 1024 * 4
    # Gradients of inputs and weights cost a forward pass each; the images, before the first of 24 filters, need none.
    assert flops["scratch"] == 3 * forward - 2 * 24 * (3 * 3 * 3) * 16 * 16


def test_no_profiler_in_a_timed_pass() -> None:
    with torch.profiler.profile(), pytest.raises(FashiontlError, match="expected no profiler in a timed pass"):
        run(phases.inference, job(PROBE))


@pytest.mark.parametrize("own", [True, False])
def test_memory_of_a_policy_that_changes_is_told_by_period(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak is the most of all, the mean is weighted; where the system cannot forget a peak, no period has one."""
    readings = iter([100, 700, 300])

    def memory(*_: Any) -> dict[str, int]:
        return {"training_peak_memory": next(readings), "training_process_memory": 1000}

    monkeypatch.setattr(speed, "memory", memory)
    monkeypatch.setattr(Cpu, "restart_peak", lambda device: own)
    value = run(phases.step, job(Case(ARCHITECTURE, "lp_ft", weights="none"), replace(SETTINGS, epochs=4)))
    assert (value["training_peak_memory"], value["training_process_memory"]) == (700, 1000)
    each, mean = value["periods"]["each"], value["periods"]["mean"]
    assert [period.get("training_peak_memory") for period in each] == ([700, 300] if own else [None, None])
    assert mean.get("training_peak_memory") == (500 if own else None)


@pytest.mark.usefixtures("own_tables")
def test_a_phase_of_ones_own_returns_a_result_that_a_record_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from fashiontl.runner.messages import PhaseResult\n"
        "def sound(work, progress):\n"
        "    result = PhaseResult()\n"
        "    result.measure('loudness', [0.5, float(work.settings.batch_size)])\n"
        "    return result\n"
        "def twice(work, progress):\n"
        "    result = sound(work, progress)\n"
        "    result.measure('loudness', 1.0)\n"
        "    return result\n"
        "def silence(work, progress):\n"
        "    progress('listening')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register(Metric("loudness", "W", "higher", "Loudness (W)"))
    own = ExtraJob(PROBE, SETTINGS, function="mine:sound")
    assert phases.extra(own, print).values("loudness") == (0.5, SETTINGS.batch_size)
    with pytest.raises(ValueError, match=r"expected loudness from 1e-12 to 1e\+09 \(unit W\), got 0$"):
        phases.extra(structs.replace(own, settings=replace(SETTINGS, batch_size=0)), print)
    with pytest.raises(ValueError, match="expected each metric once, got loudness, loudness"):
        phases.extra(structs.replace(own, function="mine:twice"), print)
    with pytest.raises(TypeError, match="expected mine:silence to return a PhaseResult, got NoneType"):
        phases.extra(structs.replace(own, function="mine:silence"), print)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a process's peak cannot be forgotten")
def test_a_processs_peak_begins_anew() -> None:
    large = torch.ones(2**26, dtype=torch.uint8)
    before = timed_pass.memory(Device.of("cpu"), "training", 0)["training_peak_memory"]
    del large
    if not Device.of("cpu").restart_peak():
        pytest.skip("this system's /proc does not let a peak be forgotten")
    assert timed_pass.memory(Device.of("cpu"), "training", 0)["training_peak_memory"] < before - 2**25


def test_normalisation_that_is_not_there_is_told() -> None:
    told = ["the network has no normalisation layers, so only the head was trained"]
    for architecture, policy, expected in (("squeezenet1_1", "bn_only", told), (ARCHITECTURE, "bn_only", [])):
        assert run(phases.train, job(Case(architecture, policy, weights="none")))["warnings"] == expected


MEMBERS = (ARCHITECTURE, "squeezenet1_1")


def test_a_mean_of_probabilities_trains_each_member_as_it_would_be_alone() -> None:
    hybrid = Case("mean:" + "+".join(MEMBERS), "full", weights="none")
    alone = [run(phases.train, job(replace(hybrid, architecture=name))) for name in MEMBERS]
    value = run(phases.train, job(hybrid))
    for name, single in zip(MEMBERS, alone, strict=True):
        assert value["trained"][0][name] == single["trained"][0]
        assert value["members"][0][name] == single["accuracy"][0]
    assert len(value["proofs"]) == 2
    assert value["weights"] == {name: {"name": "none"} for name in MEMBERS}


def test_a_joined_probe_runs_its_backbones_once() -> None:
    value = run(phases.train, job(Case("joined:" + "+".join(MEMBERS), "linear_probe", weights="none")))
    assert value["proofs"][0]["trained_parameters"] == 2
    assert value["reused_stages"] == 5


def test_sources_of_a_hybrid(tmp_path: Path) -> None:
    case = Case("joined:" + "+".join(MEMBERS), "linear_probe")
    made = run(phases.pretrain, job(case, cache=str(tmp_path)))
    assert set(made["checkpoints"]) == set(made["pretraining"]["members"]) == set(MEMBERS)
    value = run(phases.train, job(case, checkpoints=made["checkpoints"]))
    for name in MEMBERS:
        assert value["weights"]["members"][name]["sha256"] == made["pretraining"]["members"][name]["sha256"]


def test_seeds_take_turns_at_the_backbones(tmp_path: Path) -> None:
    several, case = replace(SETTINGS, seeds=3, pretrain_seeds=2), Case(ARCHITECTURE, "linear_probe")
    made = run(phases.pretrain, job(case, several, cache=str(tmp_path)))
    assert set(made["checkpoints"]) == {ARCHITECTURE, f"{ARCHITECTURE}@1"}
    digests = [made["pretraining"]["sha256"], made["pretraining"]["others"][0]["sha256"]]
    assert digests[0] != digests[1]
    assert [made["pretraining"]["recipe"]["seed"], made["pretraining"]["others"][0]["recipe"]["seed"]] == [0, 1]
    value = run(phases.train, job(case, several, checkpoints=made["checkpoints"]))
    assert [start["sha256"] for start in value["backbones"]] == [digests[0], digests[1], digests[0]]
    assert value["weights"] == value["backbones"][0]
    one = run(phases.pretrain, job(case, replace(SETTINGS, seeds=3), cache=str(tmp_path)))
    assert one["checkpoints"] == {ARCHITECTURE: made["checkpoints"][ARCHITECTURE]}
    assert one["pretraining"]["cached"], "a backbone is the same whatever others there are"
    shared = run(phases.train, job(case, replace(SETTINGS, seeds=3), checkpoints=one["checkpoints"]))
    assert (shared["trained"][0], shared["trained"][2]) == (value["trained"][0], value["trained"][2])
    assert shared["trained"][1] != value["trained"][1]
    assert "backbones" not in shared


@pytest.mark.parametrize("augment", [False, True])
def test_another_seed_has_another_head_other_images_another_order_and_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: bool
) -> None:
    settings = replace(SETTINGS, seeds=2, augment=augment)
    heads, bodies, images, batches, pixels = [], [], [], [], []
    real = accuracy.fit

    def spy(network: Network, policy: Policy, examples: Examples, *others: Any, **named: Any) -> Fit:
        bodies.append({name: value.clone() for name, value in network.state_dict().items() if "head" not in name})
        heads.append(network.head_layer.weight.detach().clone())
        images.append(examples.images)
        ones = torch.arange(16 * 28 * 28, dtype=torch.float32).view(16, 28, 28).remainder(251).to(torch.uint8)
        plan = policy.plan(network.stage_names, 0, 1)
        generator = torch.Generator().manual_seed(named["seed"])
        made = list(Batches(network, plan, ones, others[0], others[1], generator))
        batches.append(torch.cat([chosen for chosen, _ in made]))
        pixels.append(torch.cat([inputs for _, inputs in made])[batches[-1].argsort()])
        return real(network, policy, examples, *others, **named)

    monkeypatch.setattr(accuracy, "fit", spy)
    made = run(phases.pretrain, job(Case(ARCHITECTURE, "full"), settings, cache=str(tmp_path)))
    run(phases.train, job(Case(ARCHITECTURE, "full"), settings, checkpoints=made["checkpoints"]))
    assert all(torch.equal(value, bodies[1][name]) for name, value in bodies[0].items())
    assert not torch.equal(*heads)
    assert not torch.equal(*images)
    assert not torch.equal(*batches)
    assert torch.equal(*pixels) is not augment, "each image in its place is the same but for augmentation"


def test_few_images_a_class_are_the_tasks_own() -> None:
    few = run(phases.train, job(Case(ARCHITECTURE, "scratch", task="fashion4@2")))
    same = run(phases.train, job(SCRATCH, replace(SETTINGS, train_per_class=2)))
    assert few["trained"] == same["trained"]
    assert few["trained"] != run(phases.train, job(SCRATCH))["trained"]


def test_validation_is_recorded() -> None:
    value = run(phases.train, job(SCRATCH, replace(SETTINGS, validation_per_class=3, epochs=2)))
    (validation,) = value["validation"]
    assert len(validation["accuracies"]) == 2
    assert validation["accuracies"][validation["chosen"]] == max(validation["accuracies"])
    assert "validation" not in run(phases.train, job(SCRATCH))


@pytest.mark.slow
@pytest.mark.parametrize("guard", [True, False])
def test_no_test_image_chooses_the_epoch(guard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: weights depend on the test's labels as soon as the epoch is chosen on them."""
    settings = replace(SETTINGS, train_per_class=10, validation_per_class=20, test_per_class=20, epochs=4)
    real_select, real_fit = accuracy.select, accuracy.fit
    tests: list[Examples] = []

    def select(*arguments: Any, turn: int) -> TaskData:
        chosen = real_select(*arguments)
        labels = (chosen.test_labels + turn) % 4
        tests.append(Examples(chosen.test_images, labels))
        return replace(chosen, test_labels=labels)

    def fit(*arguments: Any, validation: Examples, **options: Any) -> Any:
        return real_fit(*arguments, validation=validation if guard else tests[-1], **options)

    monkeypatch.setattr(accuracy, "fit", fit)
    weights = set()
    for turn in range(3):
        monkeypatch.setattr(accuracy, "select", partial(select, turn=turn))
        weights.add(run(phases.train, job(Case("resnet9", "scratch"), settings))["trained"][0])
    assert (len(weights) == 1) == guard


def test_an_operator_without_a_deterministic_form_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = accuracy.predict

    def predict(*arguments: Any, **options: Any) -> Tensor:
        warnings.warn("xyz does not have a deterministic implementation", UserWarning, stacklevel=1)
        return real(*arguments, **options)

    monkeypatch.setattr(accuracy, "predict", predict)
    value = run(phases.train, job(SCRATCH, replace(SETTINGS, seeds=2)))
    assert value["warnings"] == ["an operator has no deterministic form on this device"]
    assert value["deterministic"] is False


def test_float32_means_float32_and_determinism_only_where_weights_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    run(phases.train, job(PROBE))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    run(phases.step, job(PROBE))
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
