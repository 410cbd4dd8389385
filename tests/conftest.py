"""Shared by all tests: pytest's own test harness, and a single thread for those that compute."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

pytest_plugins = ["pytester"]

# A slow moment of the machine is no fault of the code: no test is timed.
# The examples are the same in each run, so that a change that is not at fault never fails.
settings.register_profile("fashiontl", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fashiontl")


@pytest.fixture(scope="session", autouse=True)
def inner_sessions() -> Iterator[None]:
    """A pytest that tests start takes itself for none of pytest-xdist's workers, and shuffles nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        patch.setenv("PYTEST_ADDOPTS", f"-p no:randomly {os.environ.get('PYTEST_ADDOPTS', '')}".strip())
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On networks as small as the tests', threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def as_in_a_worker() -> Iterator[None]:
    """Phases change torch's global state, as is fine in a process that ends with them."""
    import torch

    threads, filling = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    benchmark, tf32 = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filling
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = benchmark, tf32
    torch.backends.cuda.matmul.allow_tf32 = matmul


@pytest.fixture
def bench_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of bench/ by its name, which may import its neighbours."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    return importlib.import_module


@pytest.fixture
def matrix(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], pytest.Pytester]:
    """Makes a folder to run `pytest` in, with the matrix of bench/, a cache of its own and the given conftest."""
    bench = Path(__file__).parent.parent / "bench"

    def make(conftest: str) -> pytest.Pytester:
        monkeypatch.setenv("FASHIONTL_CACHE", str(pytester.path / "cache"))
        # pytester has taken it away.
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly")
        pytester.makeconftest((bench / "conftest.py").read_text() + conftest)
        pytester.makepyfile(test_matrix=(bench / "test_matrix.py").read_text())
        return pytester

    return make


@pytest.fixture
def own_tables(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever a test's extensions register, and the modules they are, are gone after it."""
    from fashiontl.matrix import extensions

    tables = [table for _, table in extensions._TABLES.values()] + [extensions._ADDED]
    copies = [dict(table) for table in tables]
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for table, copy in zip(tables, copies, strict=True):
        table.clear()
        table.update(copy)
    for name in set(sys.modules) - modules:
        # Those of libraries cannot be imported twice, and may be installed below the folder for temporary files too.
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path_factory.getbasetemp())):
            del sys.modules[name]
