import importlib.util
import json
import subprocess
import sys
import textwrap
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fashiontl.core.case import MEMORY_FORMATS, PRECISIONS, Case
from fashiontl.models.build import build
from fashiontl.timing import variants
from fashiontl.timing.variants import Variant, faster_format, unavailable_reason, warnings_for

pytestmark = pytest.mark.usefixtures("one_thread")


class Tied(nn.Module):
    """A network with all that deployment must take care of: BatchNorm's counter, a buffer, and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.register_buffer("shift", torch.full((8,), 0.1), persistent=False)
        self.body.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.other(self.one(self.body(images) + self.shift))
        return answers


def images() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def channels_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_a_variant_is_that_of_its_case() -> None:
    case = Case("resnet18", "full", precision="bf16", memory_format="channels_last", execution="compile", batch=4)
    assert Variant.of(case) == Variant("bf16", "channels_last", "compile")
    assert Variant.of(Case("resnet18", "full")) == Variant()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_computes_in_the_type_and_the_loss_in_float32(precision: str) -> None:
    network = Tied()
    with Variant(precision).autocast("cpu"):
        answers = network(images())
        loss = nn.functional.cross_entropy(answers, torch.arange(4))
    assert answers.dtype == Variant(precision).dtype
    assert loss.dtype == torch.float32
    assert isinstance(Variant(precision).autocast("cpu"), nullcontext) == (precision in {"fp32", "tf32"})
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_only_fp16_losses_are_scaled() -> None:
    scaled = {precision: Variant(precision).scaler("cpu").scale(torch.tensor(2.0)).item() for precision in PRECISIONS}
    assert scaled == {"fp32": 2.0, "tf32": 2.0, "bf16": 2.0, "fp16": 512.0}


def test_weights_are_placed_in_place_and_only_those_with_four_dimensions() -> None:
    network = Tied()
    before = {name: (parameter, parameter.clone()) for name, parameter in network.named_parameters()}
    Variant(memory_format="channels_last").place(network)
    for name, parameter in network.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    weight = network.get_parameter("body.0.weight")
    assert channels_last(weight)
    assert not weight.is_contiguous()
    assert network.one.weight.is_contiguous()


def test_contiguous_leaves_everything_as_it_is() -> None:
    network, batch = Tied(), images()
    pointers = [parameter.data_ptr() for parameter in network.parameters()]
    Variant().place(network)
    assert [parameter.data_ptr() for parameter in network.parameters()] == pointers
    assert Variant().arrange(batch) is batch
    assert Variant().deployed_images(batch) is batch
    assert Variant().deploy(network) is network
    assert Variant().compiled(network) is network
    assert Variant("tf32", execution="compile").deploy(network) is network


def test_images_are_arranged_and_features_left() -> None:
    variant = Variant("fp16", "channels_last")
    arranged = variant.arrange(images())
    assert channels_last(arranged)
    assert (arranged.dtype, variant.deployed_images(images()).dtype) == (torch.float32, torch.float16)
    assert channels_last(variant.deployed_images(images()))
    assert torch.equal(arranged, images())
    features = torch.ones(4, 8)
    assert variant.arrange(features) is features


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("mobilenet_v2", "channels_last"), ("densenet121", "channels_last"), ("resnet18", "contiguous"),
     ("vgg11", "contiguous"), ("vit_b_16", "contiguous")],
)  # fmt: skip
def test_small_convolutions_train_faster_in_channels_last_on_a_cpu(architecture: str, expected: str) -> None:
    with torch.device("meta"):
        network = build(architecture, 4, image_size=32)
    assert faster_format(network, "cpu") == expected
    assert faster_format(network, "cuda") == "contiguous"
    assert faster_format(nn.Linear(2, 2), "cpu") == "contiguous"


@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_deployed_network_has_the_variants_weights_and_the_original_keeps_its_own(
    precision: str, memory_format: str
) -> None:
    variant = Variant(precision, memory_format)
    network = Tied().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        expected = network.eval()(images())
    network.train()
    deployed = variant.deploy(network)
    assert not any(module.training for part in (deployed, network) for module in part.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert (value.dtype, value.stride()) == (before[name].dtype, before[name].stride())
    assert isinstance(deployed, Tied)
    assert deployed.one.weight is deployed.other.weight
    assert deployed.get_buffer("body.1.num_batches_tracked").dtype == torch.int64
    for tensor in (*deployed.parameters(), deployed.shift, deployed.get_buffer("body.1.running_var")):
        assert tensor.dtype == variant.dtype
    weight = deployed.get_parameter("body.0.weight")
    assert channels_last(weight) == (memory_format == "channels_last")
    assert [p.requires_grad for p in deployed.parameters()] == [p.requires_grad for p in network.parameters()]
    with torch.inference_mode():
        answers = deployed(variant.deployed_images(images()))
    assert answers.dtype == variant.dtype
    tolerance = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}[precision]
    torch.testing.assert_close(answers.float(), expected, rtol=tolerance, atol=tolerance)


def case(device: str = "cpu", **axes: Any) -> Case:
    return Case("resnet18", "full", device, **axes)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
def test_a_cpu_takes_every_precision_but_tf32(precision: str, memory_format: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unavailable_reason(case(precision=precision, memory_format=memory_format)) is None


def test_tf32_is_for_recent_nvidia_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(device: str) -> str:
        return unavailable_reason(case(device, precision="tf32")) or ""

    assert "capability 8.0 or later, got cpu; measure fp32 or bf16 there" in reason("cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(7, 5), (8, 6)][index])
    monkeypatch.setattr(torch.version, "hip", None)
    assert "got 7.5; measure fp32 or fp16 there" in reason("cuda")
    assert not reason("cuda:1")
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "got an AMD GPU" in reason("cuda:1")


def test_bf16_on_cuda_must_be_computed_and_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return asked[0] == 1

    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext(asked.append(index)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert unavailable_reason(case("cuda:1", precision="bf16")) is None
    assert asked == [1, False]
    asked.clear()
    assert "bf16 needs a GPU that computes in it" in (unavailable_reason(case("cuda", precision="bf16")) or "")


def test_a_type_that_autocast_turns_down_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(variants._DTYPES, "fp16", torch.float64)
    reason = unavailable_reason(case(precision="fp16"))
    assert reason == f"torch {torch.__version__} has no fp16 autocast on this cpu; measure fp32 there"


def test_compiling_on_a_cpu_needs_a_compiler_and_pythons_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> None:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(variants.sysconfig, "get_path", lambda name: str(tmp_path))
    assert unavailable_reason(case(execution="compile")) is None
    (tmp_path / "Python.h").unlink()
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    reason = unavailable_reason(case(precision="tf32", execution="compile"))
    # All errors at once.
    for missing in ("tf32 needs an NVIDIA GPU", "a C++ compiler (install g++", "Python's header files (install"):
        assert missing in (reason or "")


def test_cuda_graphs_are_a_mode_of_the_compiler_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: asked.append(options))
    for execution in ("compile", "cuda_graphs"):
        Variant(execution=execution).compiled(nn.Identity())
    assert asked == [{"dynamic": False, "mode": None}, {"dynamic": False, "mode": "reduce-overhead"}]
    assert "need an NVIDIA GPU, got mps" in (unavailable_reason(case("mps", execution="cuda_graphs")) or "")


def test_compiling_on_a_gpu_needs_triton_a_compiler_and_a_recent_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(variants.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0) if index else (6, 1))
    monkeypatch.setattr(torch.version, "hip", None)
    present = {"triton", "gcc"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in present else None)
    monkeypatch.setattr(variants.shutil, "which", lambda name: name if name in present else None)
    assert unavailable_reason(case("cuda:1", execution="compile")) is None
    assert unavailable_reason(case("cuda:1", execution="cuda_graphs")) is None
    assert "compute capability 7.0 or later, got 6.1" in (unavailable_reason(case("cuda", execution="compile")) or "")
    present.clear()
    monkeypatch.delenv("CC", raising=False)
    reason = unavailable_reason(case("cuda:1", execution="compile")) or ""
    assert "triton (python -m pip install triton), and a C compiler (install gcc" in reason
    assert "does not compile for mps" in (unavailable_reason(case("mps", execution="compile")) or "")
    present.add("torch._inductor.codegen.mps")
    assert unavailable_reason(case("mps", execution="compile")) is None


@pytest.mark.parametrize(
    ("facts", "precision", "warning"),
    [
        ("processor : 0\nflags : fpu amx_tile amx_bf16\n", "bf16", None),
        ("flags : fpu avx512_fp16\n", "fp16", None),
        ("Features\t: fp asimd asimdhp\n", "fp16", None),
        ("flags : fpu avx2\n", "bf16", "no bf16 hardware on this CPU: emulated"),
        ("flags : fpu avx2\n", "fp32", None),
        ("vendor: unknown\n", "bf16", "not known whether this CPU has bf16 hardware; without, it is emulated"),
        (None, "fp16", "not known whether this CPU has fp16 hardware; without, it is emulated"),
    ],
)
def test_types_that_the_cpu_emulates_are_warned_of(
    facts: str | None, precision: str, warning: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if facts is not None:
        file.write_text(facts)
    monkeypatch.setattr(variants, "_CPU_FACTS", file)
    assert warnings_for(case(precision=precision)) == ([warning] if warning else [])
    assert warnings_for(case("cuda", precision=precision)) == []


COMPILING = """
    import json, os, sys
    import torch
    from torch import nn
    from fashiontl.timing.variants import Variant, cold_compile, compile_counts

    # Forked after torch's import, as a worker's phases are.
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    folder = sys.argv[1]
    seen = {}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)

    def gradients(run):
        network.zero_grad()
        nn.functional.cross_entropy(run(images), labels).backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    def agree(ones, others, tolerance):
        return all(torch.allclose(one, other, rtol=tolerance, atol=tolerance) for one, other in zip(ones, others))

    variant = Variant(execution="compile")
    with cold_compile(folder):
        network.eval()
        compiled = variant.compiled(network)
        with torch.inference_mode():
            seen["inference"] = agree([compiled(images)], [network(images)], 1e-5)
            compiled(images)
        seen["first"] = compile_counts()
        with torch.inference_mode():
            seen["other size"] = agree([compiled(images[:2])], [network(images[:2])], 1e-5)
        seen["second"] = compile_counts()
        network.train()
        seen["training"] = agree(gradients(compiled), gradients(network), 1e-4)
        seen["files"] = len(os.listdir(folder)) > 0
    seen["left"] = os.listdir(folder)
    seen["children"] = open(f"/proc/self/task/{os.getpid()}/children").read() if sys.platform == "linux" else ""
    print(json.dumps(seen), flush=True)
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(unavailable_reason(case(execution="compile")) is not None, reason="torch.compile cannot run here")
def test_a_forked_worker_compiles_inference_and_training_cold_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(COMPILING), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["first"] == {"graphs": 1, "graph_breaks": 0, "recompiles": 0}
    assert seen["second"] == {"graphs": 2, "graph_breaks": 0, "recompiles": 1}
    assert [seen[name] for name in ("inference", "other size", "training", "files")] == [True] * 4
    assert (seen["left"], seen["children"]) == ([], "")
