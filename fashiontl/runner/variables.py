"""Which environment variables a worker process gets, and which of them are recorded. No torch.

The rule, for variables that can change what is measured:

- **pinned**: what the settings speak of (threads, allocator), what a fork server needs and what makes results
  reproducible has one value, whatever the caller's is;
- **removed**: what contradicts a setting or the case (a limit on threads, options of the C library's malloc, a
  precision forced on a library), and what watches or debugs a program and so slows it down;
- **passed**: what tunes a library is the user's choice.

What is left of them is recorded and part of the machine key, so that numbers with and without one are never compared.
All other variables are passed and not looked at. Each worker of a run gets the same ones.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import PurePath

from fashiontl.core.case import PINNED
from fashiontl.machine.environment import c_library

# Each is read only once, by a library as it loads.
_PINNED = {
    # torch.use_deterministic_algorithms needs it for cuBLAS (cuBLAS documentation, "Results reproducibility").
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
    # numpy's own BLAS would start threads at import, and a process with threads must not be forked.
    "OPENBLAS_NUM_THREADS": "1",
}
# Before glibc 2.35 a greater threshold than half of an arena's heap is refused, and the least stays
# (do_set_mmap_threshold of its malloc/malloc.c).
_UNLIMITED_SINCE, _MOST_BEFORE = (2, 35), 2**25

_REMOVED = {
    # The setting `threads` decides alone.
    "OMP_DYNAMIC", "OMP_THREAD_LIMIT", "KMP_DEVICE_THREAD_LIMIT", "KMP_ALL_THREADS", "MKL_DYNAMIC",
    "MKL_DOMAIN_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS", "GOTO_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    # The case's precision and execution decide alone.
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE", "TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE", "PYTORCH_JIT",
    # What watches or debugs.
    "CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CUDNN_LOGLEVEL_DBG", "CUDNN_LOGINFO_DBG",
    "CUBLAS_LOGINFO_DBG", "CUBLASLT_LOG_LEVEL", "GOMP_DEBUG", "OMP_DISPLAY_ENV", "OMP_DISPLAY_AFFINITY", "OMP_TOOL",
    "OMP_TOOL_LIBRARIES", "KMP_SETTINGS", "KMP_VERSION", "MKL_VERBOSE", "ONEDNN_VERBOSE", "DNNL_VERBOSE",
    "MKLDNN_VERBOSE", "ONEDNN_JIT_DUMP", "OPENBLAS_VERBOSE", "TORCH_LOGS", "TORCH_TRACE", "TORCH_COMPILE_DEBUG",
    "PYTHONDEVMODE", "PYTHONMALLOC", "PYTHONTRACEMALLOC", "PYTHONMALLOCSTATS", "PYTHONPROFILEIMPORTTIME",
    "PYTHONASYNCIODEBUG", "PYTHONVERBOSE", "PYTHONINSPECT", "PYTHONPERFSUPPORT", "PYTHON_PERF_JIT_SUPPORT",
}  # fmt: skip

# Whose variables change what is computed, how fast, or in how much memory. Of Python's most name a place or a format.
_FAMILIES = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "GOTO_", "VECLIB_", "ONEDNN_", "DNNL_", "MKLDNN_",
    "LRU_CACHE_CAPACITY", "ATEN_", "THP_MEM_ALLOC_ENABLE", "PYTORCH_", "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_",
    "TRITON_", "CUDA_", "CUDNN_", "CUBLAS_", "CUBLASLT_", "NVIDIA_TF32_OVERRIDE", "HIP_", "HSA_", "MIOPEN_", "SYCL_",
    "MALLOC_", "TCMALLOC_", "MIMALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "LD_BIND_NOW", "DYLD_INSERT_LIBRARIES",
    "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHON_GIL", "PYTHON_JIT", "PYTHON_CPU_COUNT", "PYTHONNODEBUGRANGES",
    "PYTHONMALLOC", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONPROFILEIMPORTTIME", "PYTHONASYNCIODEBUG",
    "PYTHONPERFSUPPORT", "PYTHON_PERF_JIT_SUPPORT",
)  # fmt: skip
# Endings of names within those families that say where something is, which device is meant, or what an image holds.
_PLACES = (
    "_HOME", "_PATH", "_ROOT", "_DIR", "_DIRECTORY", "_VERSION", "_DEVICES", "_DEVICE_ORDER", "_ARCH_LIST", "_OUT",
    "_FILE", "_LOGDEST_DBG", "_SHA256",
)  # fmt: skip
# Options of allocators that are preloaded: without one nobody reads them.
_OPTIONS_OF_PRELOADED = ("MALLOC_CONF", "TCMALLOC_", "MIMALLOC_")
# What of a user's own LD_PRELOAD takes the place of the C library's malloc, or watches it.
_ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc", "snmalloc", "rpmalloc", "hoard", "memusage", "malloc_debug")

# The allocator of workers that read memory. glibc begins with these thresholds and raises the first as a program frees
# larger pieces, after which holes in its heap count as memory: the peak of one training step of ResNet-18 was 219 to
# 253 MiB in six processes, and 205.1 to 205.4 in three with thresholds that stay (mallopt(3)).
MEMORY = "memory"
_INITIAL = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
_OF_THE_SYSTEM = (PINNED, "default", MEMORY)


def variables(allocator: str, threads: int) -> dict[str, str]:
    """The whole environment of a worker's interpreter.

    Args:
        allocator: `fashiontl.core.case.Settings.allocator`; `MEMORY` where memory is measured.
        threads: CPU threads of each phase.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in _REMOVED
        and not _sets_malloc(name, allocator)
        # This process's own interpreter may have been told to heed none of them.
        and not (sys.flags.ignore_environment and name.startswith("PYTHON"))
    }
    # An empty name, as `PYTHONPATH=folder:$PYTHONPATH` often leaves it, is the current folder to Python.
    _join(found, "PYTHONPATH", os.pathsep, [name for name in found.pop("PYTHONPATH", "").split(os.pathsep) if name])
    tunables = [each for each in found.pop("GLIBC_TUNABLES", "").split(":") if each]
    _join(found, "GLIBC_TUNABLES", ":", [each for each in tunables if not each.startswith("glibc.malloc.")])
    # The system's linker separates its names by either (ld.so(8)).
    preloaded = found.pop("LD_PRELOAD", "").replace(":", " ").split()
    preloaded = [name for name in preloaded if not any(each in PurePath(name).name for each in _ALLOCATORS)]
    if allocator not in _OF_THE_SYSTEM:
        preloaded.insert(0, allocator)
    _join(found, "LD_PRELOAD", ":", preloaded)
    if allocator == PINNED:
        found |= thresholds(c_library())
    if allocator == MEMORY:
        found |= _INITIAL
    return {**found, **_PINNED, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def thresholds(libc: str | None) -> dict[str, str]:
    """The variables of the allocator `pinned`; other C libraries than glibc have none, and do not read them.

    glibc moves its own thresholds as a program runs, which made identical code alternate between two speeds; a variable
    fixes them (mallopt(3)). What is freed then stays with the process, so no memory is measured with these.

    Args:
        libc: `fashiontl.machine.environment.c_library`.
    """
    version = re.fullmatch(r"glibc (\d+)\.(\d+).*", libc or "")
    is_limited = version is not None and (int(version[1]), int(version[2])) < _UNLIMITED_SINCE
    most = _MOST_BEFORE if is_limited else 2**32
    return {"MALLOC_MMAP_THRESHOLD_": str(most), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def _sets_malloc(name: str, allocator: str) -> bool:
    """Whether a variable of the caller would change the allocator that the setting names."""
    if name.startswith(_OPTIONS_OF_PRELOADED):
        return allocator in _OF_THE_SYSTEM
    return name.startswith("MALLOC_")


def _join(found: dict[str, str], name: str, separator: str, parts: list[str]) -> None:
    if parts:
        found[name] = separator.join(parts)


def recorded(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The variables of an environment that can change what is measured, each as `NAME=value`, sorted."""
    return tuple(f"{name}={value}" for name, value in sorted(environment.items()) if _matters(name))


def removed(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of this process's own variables that could change what is measured and not so in an environment."""
    return tuple(
        name for name, value in sorted(os.environ.items()) if _matters(name) and environment.get(name) != value
    )


def _matters(name: str) -> bool:
    return name.startswith(_FAMILIES) and not name.endswith(_PLACES)
