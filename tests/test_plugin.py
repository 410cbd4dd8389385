"""The plug-in as pytest users meet it. Measuring is replaced by a made-up record; test_end_to_end.py measures."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd  # noqa: F401 - a module that cannot be loaded twice
import pytest

from fashiontl.reports import leaderboard  # noqa: F401 - the same
from fashiontl.runner.cell import Measurer

# Stands in for Measurer.measure in the inner run: a record whose latencies depend on the case's name.
FAKE = """
import pytest
from fashiontl.machine.environment import machine_key, read_environment
from fashiontl.runner.cell import Measurer
from fashiontl.core.metrics import Measurement
from fashiontl.records import SCHEMA, Record

def measure(self, case, progress=print):
    progress("pretending")
    environment = read_environment({}, threads=1)
    status, reason = {"vgg11": ("crashed", "it fell over"), "densenet121": ("skipped", "it is not here")}.get(
        case.architecture, ("ok", ""))
    samples = tuple(0.001 * (number + len(case.policy)) for number in range(5))
    return Record(
        SCHEMA, case.id, self._run, "pytest", "2026-01-02T03:04:05+00:00", case, self._settings, environment,
        machine_key(environment), status, reason, (), (Measurement("latency", samples),
        Measurement("accuracy", (0.75,), 100)), None, {}, {})

Measurer.measure = measure
# Not even what cells compute is counted, so that none is cheaper than another.
Measurer.count = lambda self, case: None
"""

Matrix = Callable[[str], pytest.Pytester]
PROCESSES = [[], pytest.param(["-n2"], marks=pytest.mark.slow)]


@pytest.fixture
def bench(matrix: Matrix) -> pytest.Pytester:
    return matrix(FAKE)


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch, own_tables: None) -> None:
    """What inner sessions of this process replace is put back."""
    del own_tables
    monkeypatch.setattr(Measurer, "measure", Measurer.measure)
    monkeypatch.setattr(Measurer, "count", Measurer.count)


def run(bench: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A session in this process, whose modules are loaded already; in its own with processes of pytest-xdist."""
    if any(argument.startswith("-n") for argument in arguments):
        return bench.runpytest_subprocess("--device", "cpu", *arguments)
    return bench.runpytest_inprocess("--device", "cpu", *arguments)


def run_alone(bench: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A session in a process of its own, for one that changes what would be left behind."""
    return bench.runpytest_subprocess("--device", "cpu", *arguments)


def lines(bench: pytest.Pytester) -> list[dict[str, object]]:
    paths = sorted((bench.path / "results" / "runs").rglob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_each_case_becomes_a_test_a_record_and_a_benchmark(bench: pytest.Pytester) -> None:
    result = run(bench, "--arch=resnet18", "--policy=full,scratch", "--benchmark-json=out.json")
    result.assert_outcomes(passed=2)
    assert [line["id"] for line in lines(bench)] == ["resnet18-full-cpu", "resnet18-scratch-cpu"]
    result.stdout.fnmatch_lines(["*1/2* resnet18-full-cpu: ok in *left", "*2/2* resnet18-scratch-cpu: ok in *"])
    result.stdout.fnmatch_lines(["records *.jsonl", "leaderboard *results*leaderboard.md"])
    data = json.loads((bench.path / "out.json").read_text())["benchmarks"]
    # pytest-benchmark holds the worker's own samples, to the last bit.
    samples = [[0.001 * (number + length) for number in range(5)] for length in (len("full"), len("scratch"))]
    assert [benchmark["stats"]["data"] for benchmark in data] == samples
    assert data[0]["group"] == "latency fashion4 cpu"
    assert "resnet18" in (bench.path / "results" / "leaderboard.md").read_text()


def test_quiet_and_verbose_are_as_pytest_users_know_them(bench: pytest.Pytester) -> None:
    quiet = run(bench, "--policy=full", "-q")
    quiet.stdout.re_match_lines([r"F\.\.s +\[100%\]$"])
    verbose = run(bench, "--policy=full", "-v")
    first, last = "test_matrix.py::test_cell[[]vgg11-full-cpu[]] FAILED * 25%]", "*SKIPPED (it is not here) [[]100%]"
    verbose.stdout.fnmatch_lines(
        [first, "*resnet18* PASSED * 50%]", "*mobilenet* PASSED * 75%]", last], consecutive=True
    )
    assert "1/4" not in quiet.stdout.str() + verbose.stdout.str()


def _read_all(terminal: int) -> str:
    parts = []
    # On Linux, reading fails once the other side is closed.
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.slow
def test_a_terminal_has_one_line_that_is_rewritten(bench: pytest.Pytester) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest", "--device=cpu", "--arch=resnet18", "--policy=full,scratch"]
    with subprocess.Popen(command, cwd=bench.path, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = _read_all(ours)
    assert "[1/2] resnet18-full-cpu: starting" in shown
    assert re.search(r"\[2/2\] resnet18-scratch-cpu: pretending, .* left *\r", shown)
    # A carriage return begins each state of the line, the last of which stays.
    lines = [line.rpartition("\r")[2].rstrip() for line in shown.replace("\r\n", "\n").split("\n")]
    begin = next(n for n, line in enumerate(lines) if line.startswith("[1/2] resnet18-full-cpu: ok in 0 s, "))
    assert lines[begin + 1] == "[2/2] resnet18-scratch-cpu: ok in 0 s"


def test_failed_and_skipped_cells_are_rows_with_their_reasons(bench: pytest.Pytester) -> None:
    result = run(bench, "--policy=full", "-rs")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    ends = {"vgg11": "crashed in *", "resnet18": "ok in *", "mobilenet_v2": "ok in *", "densenet121": "skipped in *"}
    shown = [f"[[]{number}/4[]] {name}-full-cpu: {end}" for number, (name, end) in enumerate(ends.items(), 1)]
    result.stdout.fnmatch_lines(shown, consecutive=True)
    result.stdout.fnmatch_lines(["*vgg11-full-cpu: crashed: it fell over*"])
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_matrix.py:*: it is not here"])
    assert [line["status"] for line in lines(bench)] == ["crashed", "ok", "ok", "skipped"]
    board = (bench.path / "results" / "leaderboard.md").read_text()
    assert "it fell over" in board
    assert "it is not here" in board


COUNTED = """
from fashiontl.runner.estimate import Work
FLOPS = {"vgg11": 5e8, "resnet18": 7e7, "mobilenet_v2": 1e7, "densenet121": 1e8}
Measurer.count = lambda self, case: Work(FLOPS[case.architecture])
"""


def order(bench: pytest.Pytester, *arguments: str) -> list[str]:
    """The architectures of the records, in their order, each once."""
    # Names of files do not tell which of two runs in one second was later.
    shutil.rmtree(bench.path / "results", ignore_errors=True)
    run(bench, "--policy=full,scratch", *arguments)
    found = [str(line["id"]).split("-")[0] for line in lines(bench)]
    return [name for number, name in enumerate(found) if found[:number][-1:] != [name]]


@pytest.mark.slow
def test_cheap_cells_come_first_unless_an_order_was_given(matrix: Matrix) -> None:
    bench = matrix(FAKE + COUNTED)
    cheap = ["mobilenet_v2", "resnet18", "densenet121", "vgg11"]
    assert order(bench) == cheap
    assert order(bench, "-k", "vgg11 or resnet18") == ["resnet18", "vgg11"]
    assert order(bench, "--lf") == ["vgg11"]
    assert order(bench, "--arch=vgg11,resnet18") == ["vgg11", "resnet18"]
    assert order(bench, "--ff") == ["vgg11", "resnet18", "mobilenet_v2", "densenet121"]
    named = [f"test_matrix.py::test_cell[{name}-full-cpu]" for name in ("resnet18", "mobilenet_v2")]
    assert order(bench, *named) == ["resnet18", "mobilenet_v2"]


@pytest.mark.slow
def test_absent_kinds_of_devices_are_visible_skips(bench: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = bench.runpytest_subprocess("--arch=resnet18", "--policy=full", "-rs", "-k", "unseen and xpu")
    result.stdout.fnmatch_lines(["SKIPPED*torch * sees no Intel GPU; it needs torch's XPU build and Intel's driver"])


def test_collecting_loads_no_torch(matrix: Matrix) -> None:
    bench = matrix("import sys\ndef pytest_unconfigure(): print('torch' in sys.modules, 'pandas' in sys.modules)")
    result = run_alone(bench, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["test_matrix.py::test_cell?vgg11-scratch-cpu?", "False False"])
    assert not (bench.path / "results").exists()


def test_all_unknown_names_are_told_with_the_nearest(bench: pytest.Pytester) -> None:
    path = bench.makepyfile(my_entries="1 / 0")
    bad = ["--arch=resnet81", "--policy=linear-probe,ful", "--preset=fast", "--set=epochs=none", "--weights=nowhere.pt"]
    result = run_alone(bench, *bad, "--fashiontl-plugin=my_entries.py")
    assert result.ret == 2
    said = result.stderr.str()
    names = ["architecture 'resnet81'", "policy 'linear-probe'", "preset 'fast'", "weights 'nowhere.pt'"]
    assert all(f"unknown {name}; did you mean " in said for name in names)
    assert f"extension {path}: {path}, line 1: ZeroDivisionError: division by zero" in said
    assert "Traceback" not in said + result.stdout.str()


@pytest.mark.parametrize("processes", PROCESSES)
def test_an_unwritable_folder_is_found_before_anything_is_measured(
    bench: pytest.Pytester, processes: list[str]
) -> None:
    (bench.path / "results").write_text("a file, not a folder")
    result = run(bench, *processes)
    assert result.ret == 2
    assert "expected a folder for results that can be written" in result.stdout.str() + result.stderr.str()
    assert "1/20" not in result.stdout.str()


def test_resume_measures_only_what_is_missing(bench: pytest.Pytester) -> None:
    run(bench, "--policy=full", "-k", "resnet18").assert_outcomes(passed=1, deselected=3)
    result = run(bench, "--policy=full", "--resume", "-k", "resnet18 or mobilenet", "-rs")
    result.assert_outcomes(passed=1, skipped=1, deselected=2)
    result.stdout.fnmatch_lines(
        ["test_matrix.py s", "[[]1/1[]] mobilenet_v2-full-cpu: ok in *", "SKIPPED*measured already*"]
    )
    assert [line["id"] for line in lines(bench)] == ["resnet18-full-cpu", "mobilenet_v2-full-cpu"]
    assert len(list((bench.path / "results" / "runs").rglob("*.jsonl"))) == 1


@pytest.mark.slow
def test_xdist_processes_share_one_file(bench: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = run(bench, "--arch=resnet18,mobilenet_v2", "-n2")
    result.assert_outcomes(passed=10)
    result.stdout.fnmatch_lines([".......... *100%*", "resnet18-full-cpu *ok", "records *.jsonl"])
    assert len({line["id"] for line in lines(bench)}) == 10
    assert len(list((bench.path / "results" / "runs").rglob("*.jsonl"))) == 1
    assert "mobilenet_v2" in (bench.path / "results" / "leaderboard.md").read_text()


@pytest.mark.slow
def test_each_device_has_its_own_process_of_xdist(bench: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    axes = ["--arch=resnet18,mobilenet_v2", "--policy=full,scratch", "--device=cpu,mps,xpu"]
    shown = run(bench, *axes, "-n3", "-v").stdout.str()
    pairs = re.findall(r"^\[(gw\d)\].*\[.*-(cpu|mps|xpu)\]", shown, re.MULTILINE)
    assert len(pairs) == 12
    assert len(set(pairs)) == len({process for process, _ in pairs}) == len({device for _, device in pairs}) == 3


EXTENSION = """
from dataclasses import replace
from fashiontl.data import Task
from fashiontl.matrix.extensions import register
from fashiontl.freezing import POLICIES
register(Task("shoes", "three kinds of shoes", (5, 7, 9)), replace(POLICIES["full"], name="whole"))
"""
OF_EXTENSION = ["--arch=resnet18", "--policy=whole", "--task=shoes@2", "--weights=none"]


@pytest.mark.parametrize("processes", PROCESSES)
def test_entries_of_ones_own_named_on_the_command_line(bench: pytest.Pytester, processes: list[str]) -> None:
    bench.makepyfile(my_entries=EXTENSION)
    run(bench, *OF_EXTENSION, "--fashiontl-plugin=my_entries.py", *processes).assert_outcomes(passed=1)
    [line] = lines(bench)
    assert line["id"] == "resnet18-whole-cpu-shoes@2-none"


def test_entries_of_ones_own_named_in_pyproject(bench: pytest.Pytester) -> None:
    bench.makepyprojecttoml("[tool.pytest.ini_options]\n[tool.fashiontl]\nextensions = ['own/my_entries.py']")
    bench.mkdir("own").joinpath("my_entries.py").write_text(EXTENSION)
    run(bench, *OF_EXTENSION).assert_outcomes(passed=1)
    # Paths are relative to the file, wherever pytest was started.
    inner = bench.mkdir("inner")
    command = [sys.executable, "-m", "pytest", "..", "--device=cpu", *OF_EXTENSION, "--collect-only", "-q"]
    done = subprocess.run(command, cwd=inner, capture_output=True, text=True, check=False)
    assert "test_cell[resnet18-whole-cpu-shoes@2-none]" in done.stdout


# No encoding but ASCII, as in a container without a locale and with Python's own remedies off.
NO_UNICODE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.slow
def test_a_terminal_that_knows_ascii_alone(bench: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_UNICODE.items():
        monkeypatch.setenv(name, value)
    result = run_alone(bench, "--arch=resnet18", "--policy=full,scratch")
    assert (result.ret, len(lines(bench))) == (0, 2)
    result.stdout.fnmatch_lines(["*Accuracy*", "resnet18-full-cpu *", "records *.jsonl", "leaderboard *.md"])
    board = (bench.path / "results" / "leaderboard.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "fashiontl.cli", "leaderboard"], cwd=bench.path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (bench.path / "results" / "leaderboard.md").read_text(encoding="utf-8") == board


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_results_below_a_path_that_is_not_utf_8(bench: pytest.Pytester) -> None:
    results = os.fsdecode(b"caf\xe9")
    result = run(bench, "--arch=resnet18", "--policy=full", f"--results={results}")
    assert result.ret == 0
    (path,) = (bench.path / results / "runs").rglob("*.jsonl")
    assert json.loads(path.read_bytes())["id"] == "resnet18-full-cpu"
    assert (bench.path / results / "leaderboard.md").exists()
    again = run(bench, "--arch=resnet18", "--policy=full,scratch", f"--results={results}", "--resume")
    again.assert_outcomes(passed=1, skipped=1)


@pytest.mark.parametrize(
    "places",
    [["page.summary", "ProgressLine._shown"], ["page.write", "BenchmarkFixture.pedantic"]],
)
def test_what_cannot_be_shown_loses_no_record_and_no_exit_code(matrix: Matrix, places: list[str]) -> None:
    broken = """
from fashiontl.reports.leaderboard import page
from fashiontl.reports.progress import ProgressLine
from pytest_benchmark.fixture import BenchmarkFixture
def broken(*_, **__):
    raise RuntimeError("it cannot be shown")
"""
    bench = matrix("\n".join([FAKE, broken, *(f"{place} = broken" for place in places)]))
    result = run_alone(bench, "--arch=resnet18,vgg11", "--policy=full")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1
    assert [line["status"] for line in lines(bench)] == ["ok", "crashed"]
    assert "INTERNALERROR" not in result.stdout.str()
    result.stdout.fnmatch_lines(["records *.jsonl"])


@pytest.mark.parametrize("cut", [1, 300])
def test_a_run_whose_file_lost_its_end_is_resumed(bench: pytest.Pytester, cut: int) -> None:
    arguments = ("--arch=resnet18,mobilenet_v2", "--policy=full")
    run(bench, *arguments)
    (path,) = (bench.path / "results" / "runs").rglob("*.jsonl")
    os.truncate(path, path.stat().st_size - cut)
    before = path.read_bytes()
    # Without its last newline a record is whole; cut in its middle it is measured again, and the rest is kept.
    lost = cut > 1
    result = run(bench, *arguments, "--resume")
    result.assert_outcomes(skipped=2 - lost, passed=lost)
    assert [line["id"] for line in lines(bench)] == ["resnet18-full-cpu", "mobilenet_v2-full-cpu"]
    assert [other.read_bytes() for other in path.parent.glob("*.broken-*")] == before.splitlines()[1:][:lost]
    assert ("cut off" in result.stdout.str()) == lost


def test_a_full_disk_saves_the_record_elsewhere(
    matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    full = """
import fashiontl.records.writing
def full(path, contents):
    raise OSError(28, "No space left on device")
fashiontl.records.writing.write_atomically = full
"""
    bench = matrix(FAKE + full)
    result = run_alone(bench, "--arch=resnet18", "--policy=full,scratch")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*No space left on device*the record is in *"])
    (saved,) = temporary.glob("fashiontl-*.jsonl")
    assert len(saved.read_text().splitlines()) == 2


def test_no_folder_for_temporary_files_is_told_before_anything_is_measured(
    matrix: Matrix,
) -> None:
    bench = matrix(FAKE + "\nimport tempfile\ntempfile.tempdir = '/dev/null/absent'\n")
    result = run_alone(bench, "--arch=resnet18", "--policy=full")
    assert result.ret == 2
    assert "got /dev/null/absent: Not a directory; free it, or name another with the variable TMPDIR" in (
        result.stdout.str() + result.stderr.str()
    )
    assert lines(bench) == []
