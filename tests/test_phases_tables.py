"""Every entry of the tables through every phase, so that none can be added that only some of them support."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from phase_runs import run

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError, SkippedError
from fashiontl.data import TASKS
from fashiontl.freezing import POLICIES, Policy, StagePlan
from fashiontl.matrix import extensions
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.profiling.operators import Profile
from fashiontl.runner import phases
from fashiontl.runner.messages import CaseJob, SlicesJob
from fashiontl.runner.phases import profile_step
from fashiontl.timing import loops
from fashiontl.timing.loops import Samples, WarmUp
from fashiontl.timing.slices import Slice, Slicer

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
METRICS = ("latency", "inference_throughput", "train_throughput", "end_to_end_throughput")
PHASES = ("pretrain", "train", "inference", "step", "sweep", "profile", "slices")
# Epochs enough that each policy that changes has several plans.
SETTINGS = replace(
    PRESETS["smoke"], train_per_class=2, test_per_class=2, epochs=3, batch_size=4, sweep=2, seconds=0.001
)
# A chain of a stem and four stages whose builder computes with values, as the meta device cannot, and keeps a constant
# that no checkpoint holds.
CHAIN = """
from fashiontl.models.registry import Architecture
from fashiontl.matrix.extensions import register


def build(classes, image_size):
    import torch
    from torch import nn

    from fashiontl.models.network import Network

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", torch.ones(1), persistent=False)

        def forward(self, images):
            return images + self.shift

    width = int(torch.arange(9).sum().item()) // 9

    def block(inputs):
        return [nn.Conv2d(inputs, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]

    stages = {"stem": [Shifted(), *block(3)], **{f"stage{number}": block(width) for number in range(1, 5)}}
    return Network({**stages, "neck": [nn.AdaptiveAvgPool2d(1), nn.Flatten()], "head": [nn.Linear(width, classes)]})


register(Architecture("chain", family="", minimum_size=1, builder="chain:build"))
"""
# The smallest of each family; all are run where only the architecture varies.
SMALLEST = (
    "alexnet", "vgg11", "squeezenet1_1", "resnet18", "resnet9", "regnet_y_400mf", "densenet121", "mobilenet_v3_small",
    "efficientnet_b0", "mnasnet0_5", "shufflenet_v2_x0_5", "convnext_tiny", "swin_t", "vit_b_32", "maxvit_t",
    "googlenet", "inception_v3",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("as_in_a_worker", "own_tables")


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loop calls once: how it times is not looked at here."""

    def once(call: Callable[[], object], *_: Any) -> Samples:
        call()
        return Samples((0.5,), (), WarmUp(1, True, 0.0, 0.0), "precise", 0)

    def warmed(slicer: Slicer, _: float) -> WarmUp:
        slicer._take(1)
        return WarmUp(1, True, 0.0, 0.0)

    def taken(slicer: Slicer) -> Slice:
        slicer._take(1)
        return Slice((0.5, 0.25), parts=dict.fromkeys(slicer._parts, (0.125,)))

    def profiled(step: Callable[[], object], *_: Any, **__: Any) -> Profile:
        step()
        return Profile((), (), None, 1, 0.5, None, None, ())

    # The package has a function of that name.
    slices = importlib.import_module("fashiontl.runner.phases.slices")
    monkeypatch.setattr(Slicer, "warm", warmed)
    monkeypatch.setattr(Slicer, "take", taken)
    # Both go through all that tests have imported.
    monkeypatch.setattr(slices, "strangers", lambda other: [])
    monkeypatch.setattr(loops.gc, "collect", lambda: 0)
    monkeypatch.setattr(profile_step, "profile_steps", profiled)
    monkeypatch.setattr("fashiontl.timing.sweep.time_blocks", once)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def chain(own_tables: None, tmp_path: Path) -> str:
    del own_tables  # it must be there first
    (tmp_path / "chain.py").write_text(CHAIN)
    extensions.load([str(tmp_path / "chain.py")])
    return "chain"


def run_all(case: Case, cache: Path, folder: Path, names: tuple[str, ...] = PHASES) -> dict[str, Any]:
    """What each phase returns, through JSON, or the reason why it skips the case."""
    commands = folder / "commands"
    commands.write_text("".join(f"{command} {metric}\n" for metric in METRICS for command in ("warm", "slice")))
    job = SlicesJob(
        case, SETTINGS, cache=str(cache), traces=str(folder), commands=str(commands), other=str(folder / "other")
    )
    found: dict[str, Any] = {}
    for name in names:
        lines: list[str] = []
        try:
            found[name] = run(getattr(phases, name), job, lines)
        except SkippedError as error:
            found[name] = str(error)
            # What the other phases say without a checkpoint.
            job = structs.replace(job, case=replace(case, weights="none"))
        else:
            if name == "slices":
                found[name]["answers"] = dict(zip(METRICS, map(json.loads, lines[1::2]), strict=True))
            job = structs.replace(job, checkpoints=found.get("pretrain", {}).get("checkpoints", {}))
    return found


def assert_measured(found: dict[str, Any]) -> None:
    assert not [reason for reason in found.values() if isinstance(reason, str)]
    assert len(found["train"]["accuracy"]) == 1
    assert all(proof["holds"] for proof in found["train"]["proofs"])
    assert found["inference"]["trainable_parameters"] > 0
    assert found["step"]["training_flops"] > 0
    if "periods" in found["step"]:
        assert sum(each["share"] for each in found["step"]["periods"]["each"]) == pytest.approx(1)
    if "slices" in found:
        answers = found["slices"]["answers"]
        assert [answer["values"] for answer in answers.values()] == [pytest.approx([0.5, 0.25])] * 4
        assert set(answers["end_to_end_throughput"]["parts"]) == {"data", "forward", "backward", "optimizer"}
        spans = len(found["step"]["periods"]["each"]) if "periods" in found["step"] else 0
        expected = [None, None, *[[0.375] * spans or None] * 2]
        assert [answer.get("periods") for answer in answers.values()] == expected
    if "sweep" in found:
        assert [point["batch"] for point in found["sweep"]["sweep"]["training"]["points"]] == [2]
        assert "profile" in found["profile"]


CHANGE = {"lp_ft", "gradual_unfreeze", "progressive_freeze"}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_through_every_phase(policy: str, chain: str, cache: Path, tmp_path: Path) -> None:
    names = tuple(name for name in PHASES if policy != "scratch" or name != "pretrain")
    found = run_all(Case(chain, policy), cache, tmp_path, names)
    assert_measured(found)
    assert ("periods" in found["step"]) == (policy in CHANGE)
    told = [*found["sweep"]["warnings"], *found["profile"]["warnings"]]
    assert len([warning for warning in told if "alone" in warning]) == (2 if policy in CHANGE else 0)


def test_a_policy_that_needs_a_stage_which_is_not_there_is_skipped_by_every_phase(cache: Path, tmp_path: Path) -> None:
    found = run_all(Case("shufflenet_v2_x0_5", "surgical_4"), cache, tmp_path)
    (reason,) = set(found.values())
    assert reason.startswith("policy surgical_4: expected a stage called stage4, got stem, stage1, stage2, stage3, ")


def test_a_policy_without_its_library_is_skipped_by_every_phase(
    chain: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python takes for a module that is not there.
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = run_all(Case(chain, "lora"), cache, tmp_path)
    assert set(found.values()) == {"policy lora needs the library peft; pip install 'fashiontl[lora]'"}
    assert set(found) == set(PHASES)


# A hybrid of networks of different depth changes its plan whenever that of either changes.
@pytest.mark.parametrize(
    ("architecture", "policy"),
    [("mean:chain+tiny", "lora"), ("joined:chain+tiny", "gradual_unfreeze")],
)
def test_hybrids_run_through_every_phase(
    architecture: str, policy: str, chain: str, cache: Path, tmp_path: Path
) -> None:
    del chain
    # From where `own_tables` takes it away again.
    shutil.copy(EXAMPLES / "tiny.py", tmp_path)
    extensions.load([str(tmp_path / "tiny.py")])
    found = run_all(Case(architecture, policy, weights="none"), cache, tmp_path, PHASES[1:])
    assert_measured(found)
    if policy == "gradual_unfreeze":
        assert [each["first_epoch"] for each in found["step"]["periods"]["each"]] == [1, 2, 3]


@pytest.mark.slow
def test_models_of_timm_run_through_every_phase(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    assert_measured(run_all(Case("timm/test_vit.r160_in1k", "lora", weights="none"), cache, tmp_path, PHASES[1:]))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_through_every_phase(task: str, chain: str, cache: Path, tmp_path: Path) -> None:
    case = Case(chain, "full", task=task, weights="none")
    found = run_all(case, cache, tmp_path, ("train", "inference", "step"))
    assert_measured(found)
    assert found["train"]["trials"] == 2 * len(TASKS[task].class_names)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [*SMALLEST, "tutorial_vgg", "resnet18_small_stem"])
def test_every_family_runs_through_every_phase(architecture: str, cache: Path, tmp_path: Path) -> None:
    assert_measured(run_all(Case(architecture, "last_stage", weights="none"), cache, tmp_path, PHASES[1:]))


def test_every_family_is_among_those_that_are_run() -> None:
    assert {entry.family for entry in ARCHITECTURES.values()} == {ARCHITECTURES[name].family for name in SMALLEST}


def picky(names: tuple[str, ...], *_: int) -> Any:
    raise SkippedError(f"expected ten stages, got {len(names)}")


@pytest.mark.parametrize(
    ("plan", "kind", "message"),
    [
        (
            lambda names, epoch, epochs: {0: POLICIES["full"].plan(names, 0, epochs)}[epoch],
            FashiontlError,
            r"^policy mine: .* stages stem, stage1, .*, head in epoch 2 of 3, got KeyError: 1; ",
        ),
        (picky, SkippedError, r"^policy mine: expected ten stages, got 7$"),
        (
            lambda names, *_: (StagePlan("none", "eval", 0.0),) * len(names),
            FashiontlError,
            r"^expected a plan under which something trains, got none in the stages stem, stage1",
        ),
    ],
)
def test_what_is_wrong_with_ones_own_policy_is_said_with_its_name(
    plan: Any, kind: type[FashiontlError], message: str, chain: str, cache: Path
) -> None:
    extensions.register(Policy("mine", "what I like", "me", plan))
    for name in ("train", "step"):
        job = CaseJob(Case(chain, "mine", weights="none"), SETTINGS, cache=str(cache))
        with pytest.raises(FashiontlError, match=message) as caught:
            getattr(phases, name)(job, lambda text: None)
        assert type(caught.value) is kind


def test_adapters_may_come_in_a_later_epoch(chain: str, cache: Path, tmp_path: Path) -> None:
    plans = [POLICIES[name].plan for name in ("linear_probe", "lora", "lora")]
    late = lambda names, epoch, epochs: plans[epoch](names, epoch, epochs)  # noqa: E731
    extensions.register(Policy("mine", "the head, then adapters", "me", late))
    found = run_all(Case(chain, "mine", weights="none"), cache, tmp_path, PHASES[1:])
    assert_measured(found)
    assert len(found["step"]["periods"]["each"]) == 2
