"""Entries from outside: the tables they land in, and every way in which a file of someone else can be wrong."""

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fashiontl.core.errors import FashiontlError
from fashiontl.core.metrics import METRICS, Metric
from fashiontl.data import TASKS, Task, find_task
from fashiontl.freezing import POLICIES, Policy
from fashiontl.matrix import extensions
from fashiontl.matrix.extensions import ExtraPhase, configured, facts, load, register
from fashiontl.models.registry import ARCHITECTURES, Architecture, find

pytestmark = pytest.mark.usefixtures("own_tables")

TINY = Architecture("tiny", "", 1, builder="my_nets:build")
SHOES = Task("shoes", "three kinds of shoes", (5, 7, 9))
ENDS = Policy("ends", "", "", POLICIES["full"].plan)
LOUDNESS = Metric("loudness", "W", "higher", "Loudness (W)")
REGISTERS = "from fashiontl.data import Task\nfrom fashiontl.matrix.extensions import register\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "my_nets.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def fault(*names: object) -> str:
    with pytest.raises(FashiontlError) as caught:
        load([str(name) for name in names])
    return str(caught.value)


def test_entries_land_in_their_tables_and_an_equal_one_may_come_again() -> None:
    entries = (TINY, SHOES, ENDS, LOUDNESS, Metric("share", "1", "equal", "Share"), ExtraPhase("sound", "m.n:f_1"))
    register(*entries)
    assert find("tiny") is TINY
    assert find_task("shoes@3").per_class == 3
    assert POLICIES["ends"] is ENDS
    assert METRICS["loudness"] is LOUDNESS
    assert extensions.EXTRA_PHASES["sound"].function == "m.n:f_1"
    register(*map(replace, entries), ARCHITECTURES["resnet18"])
    assert find("tiny") == TINY


@pytest.mark.parametrize("function", ["", "m", "m:", ":f", "m.f", "m:f.g", "m:f()", "m/n.py:f", "m: f", "m:f\n"])
def test_a_phases_function_is_named_with_its_module(function: str) -> None:
    with pytest.raises(FashiontlError, match="phase sound: expected a function as module:function, got "):
        register(ExtraPhase("sound", function))


def test_faults_of_metrics_and_phases() -> None:
    register(ExtraPhase("sound", "m:f"), LOUDNESS)
    before, phases = dict(METRICS), dict(extensions.EXTRA_PHASES)
    with pytest.raises(FashiontlError) as caught:
        register(
            ExtraPhase("sound", "m:g"),
            replace(LOUDNESS, better="lower"),
            Metric("latency", "s", "higher", "Mine"),
            replace(LOUDNESS, name="pitch", unit="Hz", better="more"),  # type: ignore[arg-type]
        )
    assert [line.partition(";")[0] for line in str(caught.value).splitlines()] == [
        "phase sound: this name is taken by another entry",
        "metric loudness: this name is taken by another entry",
        "metric latency: this name is taken by another entry",
        "metric pitch: expected a unit of 1, s, B, images/s, J/image, W, images, FLOP, FLOP/s, got 'Hz'",
        "metric pitch: expected better to be higher, lower, equal, got 'more'",
    ]
    assert (before, phases) == (METRICS, extensions.EXTRA_PHASES)


def test_all_faults_are_told_and_nothing_is_added() -> None:
    before = dict(TASKS)
    with pytest.raises(FashiontlError) as caught:
        register(
            SHOES,
            replace(TINY, name="resnet18"),
            replace(SHOES, name="all"),
            replace(TINY, weights=("IMAGENET1K_V1",)),
            "shoes",  # type: ignore[arg-type]
            Task,  # type: ignore[arg-type]
        )
    assert str(caught.value).splitlines() == [
        "architecture resnet18: this name is taken by another entry; choose a new one",
        "task all: expected a name of letters, digits, _ and . (not all), got 'all'",
        "architecture tiny: weights are names that torchvision publishes, for torchvision's builders only; "
        "name a file instead",
        "expected one of Architecture, Policy, Task, Metric, ExtraPhase, ReportSection, Device, got 'shoes'",
        f"expected one of Architecture, Policy, Task, Metric, ExtraPhase, ReportSection, Device, got {Task!r}",
    ]
    assert before == TASKS


@pytest.mark.parametrize("name", ["", "a-b", "a,b", "a@5", "a\n", ".a", "ä"])
def test_names_that_would_break_ids(name: str) -> None:
    with pytest.raises(FashiontlError, match=r"expected a name of letters, digits, _ and \. \(not all\), got"):
        register(replace(SHOES, name=name))


def test_a_file_is_the_module_of_its_name_and_may_import_its_neighbours(write: Write) -> None:
    write("LAYERS = 7", "my_layers.py")
    path = write(REGISTERS + "from my_layers import LAYERS\nregister(Task('shoes', 'shoes', (5, LAYERS)))")
    load([str(path)])
    load([str(path), "my_nets"])
    assert sys.modules["my_nets"].LAYERS == 7
    assert find_task("shoes").classes == (5, 7)
    assert extensions.added() == {"my_nets": ("task shoes",)}
    assert str(path.parent) not in sys.path[:-1]


def test_what_an_extension_prints_is_no_output_of_the_command(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    load([str(write("print('hello')"))])
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(): return 1 / 0\n\n\nf()\n", 1, "ZeroDivisionError: division by zero"),
        ("x = (1\n", 1, "SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        (
            REGISTERS + "register(Task('a-b', '', (5, 7)))\n",
            3,
            "task a-b: expected a name of letters, digits, _ and . (not all), got 'a-b'",
        ),
        (
            REGISTERS + "\nregister(Task('a', '', (5, 10)))\n",
            4,
            "task a: expected two or more different classes from 0 to 9, got (5, 10)",
        ),
    ],
)
def test_what_fails_in_a_file_is_named_with_its_line(write: Write, text: str, line: int, message: str) -> None:
    path = write(text)
    assert fault(path) == f"extension {path}: {path}, line {line}: {message}"


def test_modules_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert fault("no_such_module") == (
        "extension no_such_module: ModuleNotFoundError: No module named 'no_such_module'; install it, or name the path "
        "of a .py file"
    )
    path = tmp_path / "gone.py"
    assert fault(path).endswith(
        f"expected a file whose name is a Python identifier, got no file {path}; correct the name"
    )
    path = tmp_path / "my-nets.py"
    path.touch()
    assert fault(path).endswith("expected a file whose name is a Python identifier, got my-nets.py; correct the name")
    assert fault("my nets").startswith("extension 'my nets': expected a module (package.module) or the path of a .py")


@pytest.mark.parametrize("name", ["json.py", "sys.py", "colorsys.py"])
def test_a_file_named_as_another_module(write: Write, name: str) -> None:
    path = write("", name)
    expected = f"extension {path}: expected a name that no other module has, but Python finds {path.stem} in "
    assert fault(path).startswith(expected)
    first, second = write("", "one/my_nets.py"), write("", "two/my_nets.py")
    load([str(first)])
    assert f"Python finds my_nets in {first}; rename the file" in fault(second)


def test_facts_are_hashes_by_the_modules_names(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write("x = 1")
    write("y = 2", "own/__init__.py")
    write("z = 3", "own/more.py")
    names = [str(path), "own"]
    load([*names, "own.more"])
    assert facts(names) == {
        "my_nets": hashlib.sha256(b"x = 1").hexdigest(),
        "own": hashlib.sha256(b"y = 2" + b"z = 3").hexdigest(),
    }
    assert facts([]) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("[tool.other]\nx = 1", []),
        ('[tool.fashiontl]\nextensions = ["a.b", "c/d.py", "/e.py"]', ["a.b", "{}/c/d.py", "/e.py"]),
    ],
)
def test_what_pyproject_names(write: Write, tmp_path: Path, text: str | None, expected: list[str]) -> None:
    if text is not None:
        write(text, "pyproject.toml")
    assert configured(tmp_path) == [name.format(tmp_path) for name in expected]


@pytest.mark.parametrize("text", ["[tool", "tool = 3", "[tool.fashiontl]\nextensions = [1]"])
def test_a_pyproject_that_is_none(write: Write, tmp_path: Path, text: str) -> None:
    path = write(text, "pyproject.toml")
    with pytest.raises(FashiontlError, match=f"^{re.escape(str(path))}"):
        configured(tmp_path)
