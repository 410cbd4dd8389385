"""The plug-in beside other plug-ins and other projects' tests: real pytest processes, with the plug-ins themselves."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_plugin import FAKE

# A project that knows nothing of fashiontl, and has all of its names.
CONFTEST = """
import sys
import pytest

def pytest_addoption(parser):
    parser.addoption("--device", default="printer", choices=["printer", "scanner"])
    parser.addoption("--arch", type=int, default=64)
    for name in ("policy", "task", "weights", "precision", "batch", "preset", "set", "results", "data-root", "gate"):
        parser.addoption(f"--{name}", default="theirs")
    for name in ("resume", "spread", "gate-accuracy"):
        parser.addoption(f"--{name}", action="store_true")

@pytest.fixture
def cell():
    return "prison"

@pytest.fixture(params=["salt", "pepper"])
def gated_cell(request):
    return request.param

@pytest.fixture
def unseen_device(request):
    return request.config.getoption("--device")

def pytest_unconfigure():
    print("loaded:", *sorted(name for name in sys.modules if name.startswith("fashiontl")))
"""
TESTS = """
import pytest

def test_own_fixture(cell):
    assert cell == "prison"

@pytest.mark.parametrize("cell", ["A1", "B2"])
def test_own_parameter(cell):
    assert cell in {"A1", "B2"}

def test_own_parametrised_fixture(gated_cell):
    assert gated_cell in {"salt", "pepper"}

def test_own_option(unseen_device, pytestconfig):
    assert unseen_device in {"printer", "scanner"}
    assert pytestconfig.getoption("--results") == "theirs"

class TestCells:
    def test_method(self, cell):
        assert cell == "prison"

def helper(cell, unseen_device):
    raise AssertionError("not a test")
"""
STRICT = ["-W", "error", "--strict-config", "--strict-markers"]
OPTIONS = {
    "xdist": ["-n2"],
    "cov": ["--cov=.", "--cov-report="],
    "randomly": ["-p", "randomly"],
    "timeout": ["--timeout=60"],
}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_theirs=TESTS)
    return pytester


# pytest-playwright has a --device of its own, so that a project that has one does not run beside it.
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.slow] * (name != "strict"))
        for name, options in OPTIONS.items()
    ],
)
def test_another_projects_suite_is_unchanged(project: pytest.Pytester, options: list[str]) -> None:
    result = project.runpytest_subprocess("-p", "no:playwright", "--device=scanner", "-s", *options)
    result.assert_outcomes(passed=7)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["loaded: fashiontl fashiontl.session fashiontl.session.entry"])
    assert "transfer" not in result.stdout.str()
    assert not (project.path / "results").exists()


def test_another_projects_help_is_unchanged(project: pytest.Pytester) -> None:
    # The help of pytest-benchmark shows the time of day.
    options = ["--help", "-p", "no:playwright", "-p", "no:benchmark"]
    ours, theirs = (
        project.runpytest_subprocess(*options, *more).outlines[:-1] for more in ([], ["-p", "no:fashiontl"])
    )
    assert ours == theirs
    assert any("--device={printer,scanner}" in line for line in theirs)


@pytest.fixture
def bench(pytester: pytest.Pytester) -> pytest.Pytester:
    """A clone: a folder `bench`, in which measuring is replaced, beside a folder `tests` of something else."""
    here = Path(__file__).parent.parent / "bench"
    folder = pytester.mkdir("bench")
    (folder / "conftest.py").write_text((here / "conftest.py").read_text() + FAKE)
    (folder / "test_matrix.py").write_text((here / "test_matrix.py").read_text())
    pytester.mkdir("tests").joinpath("test_theirs.py").write_text(TESTS)
    return pytester


ONE = ["--arch=resnet18", "--policy=full"]
ID = "test_matrix.py::test_cell[resnet18-full-cpu]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["-n2"], ["--cov=fashiontl", "--cov-report="], ["-p", "randomly"], ["--timeout=60"], ["-W", "error"]],
    ids=lambda options: options[-1],
)
def test_a_bench_runs_beside_them(bench: pytest.Pytester, options: list[str]) -> None:
    """pytest-playwright is there in all of them, and has declared its --device first."""
    axes = ["--device", "cpu", "--device=mps", "--arch=resnet18,mobilenet_v2", "--policy=full"]
    result = bench.runpytest_subprocess("bench", *axes, *options)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["records *.jsonl"])


def test_the_others_option_of_a_taken_name_stays_at_its_default(bench: pytest.Pytester) -> None:
    bench.makeconftest(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--arch', type=int, default=64, choices=[32, 64])\n"
        "    parser.addoption('--resume', default='never')\n"
        "def pytest_unconfigure(config):\n"
        "    print('theirs:', *(config.getoption(n) for n in ('--arch', '--resume', '--device')), flush=True)\n"
    )
    axes = ["--arch", "resnet18", "--policy", "full", "--device", "cpu", "--resume"]
    result = bench.runpytest_subprocess("bench", *axes, "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["theirs: 64 never None"])


def test_a_bench_and_other_tests_in_one_session(bench: pytest.Pytester) -> None:
    (bench.path / "tests" / "conftest.py").write_text(CONFTEST)
    result = bench.runpytest_subprocess("tests", "bench", "-p", "no:playwright", *ONE, "--device=cpu")
    result.assert_outcomes(passed=8)
    gated = bench.runpytest_subprocess("bench", "tests", "-p", "no:playwright", *ONE, "--gate=x", "-k", "test_theirs")
    gated.assert_outcomes(passed=7, deselected=1)
    assert gated.ret == 12, "the cell that was asked for was not compared"


def collected(bench: pytest.Pytester, *arguments: str, folder: str = ".") -> list[str]:
    """The cells that a pytest finds which is started in a folder."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    done = subprocess.run(command, cwd=bench.path / folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::test_cell[" in line]


@pytest.mark.slow
def test_a_bench_is_found_however_it_is_named(bench: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = [*ONE, "--device=cpu"]
    inner = f"bench/{ID}"
    assert collected(bench, inner, *axes) == [inner]
    assert collected(bench, *axes, folder="bench") == [inner.removeprefix("bench/")]
    assert collected(bench, str(bench.path / "bench"), *axes, folder="tests") != []
    (bench.path / "other.ini").write_text(f"[pytest]\ntestpaths = bench\naddopts = {' '.join(axes)}\n")
    assert collected(bench, "-c", "other.ini") == [inner]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(axes))
    assert collected(bench, "bench") == [inner]


@pytest.mark.slow
@pytest.mark.parametrize("plugin", [["-p", "fashiontl.plugin"], []], ids=["named", "conftest"])
def test_it_may_be_loaded_by_name_or_without_what_pytest_finds_itself(
    bench: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, plugin: list[str]
) -> None:
    assert len(collected(bench, *plugin, "bench", *ONE, "--device=cpu")) == 1
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert len(collected(bench, *plugin, "-p", "pytest_benchmark.plugin", "bench", *ONE, "--device=cpu")) == 1


def test_names_that_cannot_clash(bench: pytest.Pytester) -> None:
    names = ["--fashiontl-arch=resnet18", "--fashiontl-policy=full", "--fashiontl-device=cpu,mps"]
    assert len(collected(bench, "bench", *names, "--device=xpu")) == 3
    shown = bench.runpytest_subprocess("bench", "--help").stdout.str()
    assert "--arch" in shown
    assert "--fashiontl-device" in shown


@pytest.mark.slow
def test_a_bench_that_is_met_during_collection(bench: pytest.Pytester) -> None:
    """Named by a folder above it, it has no options, and pytest-xdist's controller would not know of it."""
    assert len(collected(bench, ".", "--ignore=tests")) >= 20
    result = bench.runpytest_subprocess(".", "--ignore=tests", "-n2")
    assert result.ret != 0
    assert "name its folder: pytest bench/ -n 2" in result.stdout.str() + result.stderr.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
