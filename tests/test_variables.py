"""Which environment variables a worker gets."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from fashiontl.core.case import PRESETS, override
from fashiontl.core.errors import FashiontlError
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import Phase
from fashiontl.runner.variables import recorded, removed, thresholds, variables

THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
ALWAYS = {
    "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}  # fmt: skip


def names(texts: Iterable[str]) -> set[str]:
    return {text.partition("=")[0] for text in texts}


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A caller with a home and a path, and no other variable."""
    for name in set(os.environ) - {"HOME", "PATH"}:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.usefixtures("caller")
def test_what_is_pinned() -> None:
    home = {name: os.environ[name] for name in ("HOME", "PATH", "PYTEST_CURRENT_TEST") if name in os.environ}
    assert variables("default", 3) == {**home, **ALWAYS}
    pinned = variables("pinned", 3)
    assert {name: pinned[name] for name in set(pinned) - THRESHOLDS} == {**home, **ALWAYS}
    assert all(int(pinned[name]) >= 2**25 for name in THRESHOLDS)
    assert names(recorded(pinned)) == ALWAYS.keys() | THRESHOLDS
    assert removed(pinned) == ()


@pytest.mark.parametrize(
    ("libc", "most"),
    [("glibc 2.17", 2**25), ("glibc 2.34", 2**25), ("glibc 2.35", 2**32), ("glibc 2.42.9000", 2**32),
     ("musl 1.2.5", 2**32), (None, 2**32)],
)  # fmt: skip
def test_no_threshold_that_the_c_library_refuses(libc: str | None, most: int) -> None:
    assert thresholds(libc) == {"MALLOC_MMAP_THRESHOLD_": str(most), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


@pytest.mark.parametrize(
    ("name", "value", "given"),
    [
        ("OMP_NUM_THREADS", "7", "3"),
        ("MKL_DYNAMIC", "true", None),
        ("OMP_THREAD_LIMIT", "1", None),
        ("NVIDIA_TF32_OVERRIDE", "0", None),
        ("CUDA_LAUNCH_BLOCKING", "1", None),
        ("PYTHONDEVMODE", "1", None),
        ("PYTHONMALLOC", "debug", None),
        ("MKL_VERBOSE", "1", None),
        # The setting names the allocator: nothing else sets its options.
        ("MALLOC_MMAP_THRESHOLD_", "65536", None),
        ("MALLOC_ARENA_MAX", "1", None),
        ("MALLOC_CONF", "narenas:1", None),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1:glibc.cpu.x86_rep_movsb_threshold=2",
         "glibc.cpu.x86_rep_movsb_threshold=2"),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1", None),
        ("LD_PRELOAD", "/opt/libjemalloc.so.2:/opt/libiomp5.so", "/opt/libiomp5.so"),
        ("LD_PRELOAD", "libtcmalloc_minimal.so.4", None),
    ],
)  # fmt: skip
def test_what_is_not_as_the_caller_has_it(caller: pytest.MonkeyPatch, name: str, value: str, given: str | None) -> None:
    caller.setenv(name, value)
    environment = variables("default", 3)
    assert environment.get(name) == given
    assert removed(environment) == (name,)


@pytest.mark.parametrize(
    ("name", "value", "is_recorded"),
    [
        ("OMP_WAIT_POLICY", "active", True),
        ("GOMP_SPINCOUNT", "0", True),
        ("KMP_BLOCKTIME", "1", True),
        ("KMP_AFFINITY", "compact", True),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", True),
        ("THP_MEM_ALLOC_ENABLE", "1", True),
        ("CUDA_MODULE_LOADING", "EAGER", True),
        ("PYTHONOPTIMIZE", "1", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", True),
        # Where something is, or which device is meant, is told by other facts or does not matter.
        ("CUDA_VISIBLE_DEVICES", "1", False),
        ("CUDA_HOME", "/usr/local/cuda", False),
        ("TORCH_HOME", "/data", False),
        ("PYTHONPATH", "/data", False),
        ("PYTORCH_VERSION", "2.13.0", False),
        ("LANG", "C.UTF-8", False),
        ("NVIDIA_DRIVER_CAPABILITIES", "all", False),
        ("SECRET_TOKEN", "x", False),
    ],
)
def test_what_is_passed(caller: pytest.MonkeyPatch, name: str, value: str, is_recorded: bool) -> None:
    caller.setenv(name, value)
    environment = variables("pinned", 3)
    assert environment[name] == value
    assert removed(environment) == ()
    assert (f"{name}={value}" in recorded(environment)) == is_recorded
    assert names(recorded(environment)) <= {name, *ALWAYS, *THRESHOLDS}


def test_a_preloaded_allocator_keeps_its_own_options(caller: pytest.MonkeyPatch) -> None:
    caller.setenv("MALLOC_CONF", "narenas:1")
    caller.setenv("MALLOC_ARENA_MAX", "1")
    caller.setenv("LD_PRELOAD", "libiomp5.so libmimalloc.so")
    environment = variables("/opt/libjemalloc.so.2", 3)
    assert environment["LD_PRELOAD"] == "/opt/libjemalloc.so.2:libiomp5.so"
    assert environment["MALLOC_CONF"] == "narenas:1"
    assert not {name for name in environment if name.startswith("MALLOC_") and name.endswith("_")}
    assert removed(environment) == ("LD_PRELOAD", "MALLOC_ARENA_MAX")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux preloads")
def test_the_setting_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PRESETS["quick"]
    assert settings.allocator == "pinned", "what was done before there was a setting"
    assert override(settings, ["allocator=default"]).allocator == "default"
    text, space = tmp_path / "text.so", tmp_path / "a b.so"
    text.write_text("no library")
    for path, reason in (
        (tmp_path / "gone.so", "No such file"), (tmp_path, "Is a directory"), (text, "no shared library for this"),
        ("jemalloc", "pinned, default or the path of a library to preload, got 'jemalloc': No such file"),
    ):  # fmt: skip
        with pytest.raises(FashiontlError, match=f"setting allocator: .*{reason}"):
            override(settings, [f"allocator={path}"])
    loaded = next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "lib" in line and ".so" in line
    )
    monkeypatch.chdir(tmp_path)
    Path("link.so").symlink_to(loaded)
    assert override(settings, ["allocator=link.so"]).allocator == str(tmp_path / "link.so")
    space.symlink_to(loaded)
    with pytest.raises(FashiontlError, match="expected a path without spaces"):
        override(settings, [f"allocator={space}"])
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(FashiontlError, match="expected pinned or default on darwin"):
        override(settings, ["allocator=link.so"])


LIBRARY = """
#include <stdlib.h>
__attribute__((constructor)) static void started(void) { setenv("PRELOADED", "yes", 1); }
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux preloads")
def test_all_workers_of_a_run_have_one_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("def set_num_threads(count): pass")
    (tmp_path / "torch" / "_dynamo.py").touch()
    (tmp_path / "light_phases.py").write_text(
        "import os\ndef facts(job: dict, progress) -> dict:\n    return dict(os.environ)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    library = tmp_path / "own.so"
    (tmp_path / "own.c").write_text(LIBRARY)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "own.c"], check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler")
    found = {}
    for allocator in ("pinned", "default", override(PRESETS["quick"], [f"allocator={library}"]).allocator):
        with Worker(3, "light_phases", allocator=allocator) as worker:
            monkeypatch.setenv("OMP_WAIT_POLICY", "active")
            found[allocator] = worker.run(Phase("facts", dict, dict), {}, 30).found()
            monkeypatch.delenv("OMP_WAIT_POLICY")
            assert recorded(found[allocator]) == recorded(worker.variables)
    assert [environment.get("PRELOADED") for environment in found.values()] == [None, None, "yes"]
    assert [environment.keys() >= THRESHOLDS for environment in found.values()] == [True, False, False]
    assert not any("MALLOC_ARENA_MAX" in environment for environment in found.values())
