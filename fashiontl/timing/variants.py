"""How a network is run: precision, memory format, eager or compiled. And what of that this machine can do."""

import copy
import importlib
import importlib.util
import itertools
import os
import re
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashiontl.core.case import Case
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import text_of

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Linux's names for instructions that compute in these types (arch/x86 and arch/arm64 in its sources).
_CPU_FLAGS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
_CPU_FACTS = Path("/proc/cpuinfo")
# A sweep meets one shape after the other. Past its limit, 8 by default, torch would silently go on uncompiled.
_MOST_COMPILES = 200
# torch starts at 65,536 and skips steps until gradients no longer overflow; from here on none was skipped.
_FIRST_SCALE = 2.0**8
# Above this share of small convolutions channels_last is the faster way to train on a CPU (docs/evidence/fast.md
# under "Memory formats").
_SMALL_CONVOLUTIONS = 0.4


@dataclass(frozen=True)
class Variant:
    """How a network is run; the fields are those of `Case`.

    `bf16` and `fp16` train under autocast with weights in float32, and infer with weights of that type. `tf32` is
    float32 here: `fashiontl.timing.torch_flags` sets the switch.
    """

    precision: str = "fp32"
    memory_format: str = "contiguous"
    execution: str = "eager"

    @classmethod
    def of(cls, case: Case) -> "Variant":
        """The variant of a case."""
        return cls(case.precision, case.memory_format, case.execution)

    @property
    def dtype(self) -> torch.dtype:
        """Of deployed weights."""
        return _DTYPES.get(self.precision, torch.float32)

    def autocast(self, kind: str) -> AbstractContextManager[Any]:
        """The context of a training step's forward pass and loss; does nothing for `fp32` and `tf32`."""
        if self.precision not in _DTYPES:
            return nullcontext()
        return torch.autocast(kind, dtype=self.dtype)

    def scaler(self, kind: str) -> torch.amp.GradScaler:
        """Scale losses for `fp16`, whose gradients would underflow; for other precisions it returns what it gets."""
        return torch.amp.GradScaler(kind, init_scale=_FIRST_SCALE, enabled=self.precision == "fp16")

    def place(self, network: nn.Module) -> None:
        """Give a network's weights the memory format, in place."""
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            tensor.data = self.arrange(tensor.data)

    def arrange(self, images: Tensor) -> Tensor:
        """Give a tensor with four dimensions the memory format."""
        if self.memory_format == "channels_last" and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def deployed_images(self, images: Tensor) -> Tensor:
        """Give images, float32 `[n, 3, size, size]`, the type and format of inference."""
        return self.arrange(images.to(self.dtype))

    def deploy(self, network: nn.Module) -> nn.Module:
        """What inference runs: in eval mode, weights and floating-point buffers of `dtype`, in the memory format.

        The network is left in eval mode, and is returned itself where nothing else would change; otherwise a copy,
        made without a second copy of the old weights.
        """
        network.eval()
        deployed: dict[int, Any] = {}
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            value = tensor.detach()
            converted = self.arrange(value.to(self.dtype) if value.is_floating_point() else value)
            if converted is not value:
                is_parameter = isinstance(tensor, nn.Parameter)
                deployed[id(tensor)] = nn.Parameter(converted, tensor.requires_grad) if is_parameter else converted
        # deepcopy takes for a copy whatever its memo holds, so that only what does not change is really copied.
        return copy.deepcopy(network, deployed) if deployed else network

    def compiled(self, module: nn.Module) -> Callable[..., Any]:
        """A module, or what torch.compile makes of it at the first call with each shape."""
        if self.execution == "eager":
            return module
        mode = "reduce-overhead" if self.execution == "cuda_graphs" else None
        return torch.compile(module, dynamic=False, mode=mode)  # type: ignore[no-any-return, unused-ignore]


def small_convolutions(network: nn.Module) -> float:
    """Share of a network's convolutions that are of one pixel or in groups."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    small = sum(module.kernel_size == (1, 1) or module.groups > 1 for module in convolutions)
    return small / max(1, len(convolutions))


def faster_format(network: nn.Module, kind: str) -> str:
    """The memory format in which a network most likely trains faster: a rule, so that every run follows the same one.

    A CPU library turns images into a layout of its own at each convolution in the contiguous format. A convolution of
    one pixel, or in groups, has too little to compute to make up for that. On other devices nothing was measured.
    """
    return "channels_last" if kind == "cpu" and small_convolutions(network) > _SMALL_CONVOLUTIONS else "contiguous"


def unavailable_reason(case: Case) -> str | None:
    """Why a case's variant cannot run on its device, which is here; None when it can."""
    device = Device.of(case.device)
    kind, index = device.kind, device.index
    reasons = []
    if case.precision == "tf32":
        reasons.append(_tf32_unavailable(kind, index))
    elif case.precision in _DTYPES:
        reasons.append(_half_unavailable(case.precision, kind, index))
    if case.execution == "cuda_graphs" and kind != "cuda":
        reasons.append(f"CUDA graphs need an NVIDIA GPU, got {kind}; measure compile there")
    elif case.execution != "eager":
        reasons.append(_compile_unavailable(kind, index))
    return "; ".join(filter(None, reasons)) or None


def warnings_for(case: Case) -> list[str]:
    """What a reader should know of a variant that runs, but not as its name suggests."""
    if Device.of(case.device).kind != "cpu" or case.precision not in _DTYPES:
        return []
    # "flags" on x86, "Features" on Arm.
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text_of(_CPU_FACTS) or "", re.MULTILINE)
    if found is None:
        return [f"not known whether this CPU has {case.precision} hardware; without, it is emulated"]
    if _CPU_FLAGS[case.precision] & set(found.group(1).split()):
        return []
    return [f"no {case.precision} hardware on this CPU: emulated"]


def _tf32_unavailable(kind: str, index: int) -> str | None:
    needed = "tf32 needs an NVIDIA GPU of compute capability 8.0 or later"
    if kind != "cuda" or torch.version.hip is not None:
        return f"{needed}, got {'an AMD GPU' if kind == 'cuda' else kind}; measure fp32 or bf16 there"
    major, minor = torch.cuda.get_device_capability(index)
    return None if major >= 8 else f"{needed}, got {major}.{minor}; measure fp32 or fp16 there"


def _half_unavailable(precision: str, kind: str, index: int) -> str | None:
    if kind == "cuda" and precision == "bf16":
        with torch.cuda.device(index):
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return None
        return "bf16 needs a GPU that computes in it (NVIDIA: compute capability 8.0 or later); measure fp16 there"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast warns and stays off where it does not take a type
        with torch.autocast(kind, dtype=_DTYPES[precision]):
            is_taken = torch.is_autocast_enabled(kind)
    if not is_taken:
        return f"torch {torch.__version__} has no {precision} autocast on this {kind}; measure fp32 there"
    if precision == "fp16" and kind == "mps":
        unscale = "aten::_amp_foreach_non_finite_check_and_unscale_"
        if not torch._C._dispatch_has_kernel_for_dispatch_key(unscale, "MPS"):
            return f"torch {torch.__version__} cannot scale fp16 losses on mps; install a newer torch, or measure bf16"
    return None


def _compile_unavailable(kind: str, index: int) -> str | None:
    if kind == "mps":
        if importlib.util.find_spec("torch._inductor.codegen.mps"):
            return None
        return f"torch {torch.__version__} does not compile for mps; install a newer torch, or measure eager"
    missing = []
    if kind == "cpu":
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            missing.append("a C++ compiler (install g++ or clang++, or name one in CXX)")
    else:
        if importlib.util.find_spec("triton") is None:
            missing.append("triton (python -m pip install triton)")
        if not any(shutil.which(name) for name in (os.environ.get("CC", ""), "cc", "gcc", "clang")):
            missing.append("a C compiler (install gcc, or name one in CC)")
        if kind == "cuda" and torch.version.hip is None:
            major, minor = torch.cuda.get_device_capability(index)
            if major < 7:
                missing.append(f"compute capability 7.0 or later, got {major}.{minor} (measure eager)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python's header files (install python3-dev)")
    return f"torch.compile needs {', and '.join(missing)}" if missing else None


@contextmanager
def cold_compile(folder: Path | None = None) -> Iterator[None]:
    """Let torch.compile start without any cache, keep its files to itself, and compile in this process alone.

    For a process that ends with its phase: the code that was compiled is in memory until then. The compiler itself is
    imported before anything is timed.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor
    from torch._inductor import utils

    importlib.import_module("torch._inductor.compile_fx")
    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"
    # Renamed in torch 2.8.
    fresh = utils.fresh_cache if hasattr(utils, "fresh_cache") else utils.fresh_inductor_cache
    with (
        # More than one would be a pool of processes, which starts as the compiler is imported and outlives a worker.
        inductor.patch(compile_threads=1),
        dynamo.patch({limit: _MOST_COMPILES}),
        # The cache leaves its folder behind when the phase fails, so it gets one inside another.
        tempfile.TemporaryDirectory(prefix="fashiontl-", dir=folder) as inside,
        fresh(dir=inside),
    ):
        yield


def compile_counts() -> dict[str, int]:
    """What torch.compile has done in this process so far.

    Returns:
        `graphs` it made, `graph_breaks` at what it could not follow, and `recompiles`: code that was compiled again,
        for another shape, mode or set of trained weights.
    """
    from torch._dynamo.convert_frame import FRAME_COMPILE_COUNTER
    from torch._dynamo.utils import counters

    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "recompiles": sum(count - 1 for count in FRAME_COMPILE_COUNTER.values()),
    }
