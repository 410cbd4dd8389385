"""The command line as a shell meets it; that `list` prints all axes is in test_listing.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from records import matrix

from fashiontl import __version__, cli
from fashiontl.record import RunFile


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one run, whose second line is broken."""
    path = tmp_path / "results" / "runs" / "machine" / "run.jsonl"
    first, second = matrix()[:2]
    RunFile(path).append(first)
    with path.open("a") as file:
        file.write('{"schema": 1, \n')
    RunFile(path).append(second)
    return tmp_path / "results"


MAIN = "import sys; from fashiontl.cli import main; sys.exit(main())"


def run(*arguments: str, code: str = MAIN, folder: Path | None = None) -> tuple[int, str]:
    """Exit code and all output of a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=folder
    )
    return done.returncode, done.stdout + done.stderr


def test_help_names_the_commands_and_loads_neither_torch_nor_pandas() -> None:
    code = (
        "import atexit, sys; from fashiontl.cli import main\n"
        "atexit.register(lambda: print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules]))\n"
        "main()"
    )
    status, text = run("--help", code=code)
    assert status == 0
    assert "    list  " in text
    assert "    leaderboard" in text
    assert "The matrix is run by: pytest bench/" in " ".join(text.split())
    assert text.splitlines()[-1] == "[]"


def test_the_installed_command() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("fashiontl"), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"fashiontl {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["leaderbord"], "invalid choice: 'leaderbord' (choose from "),
        (["list", "--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    assert "architectures (--arch)" in capsys.readouterr().out


def test_list_shows_extensions_of_the_option_and_of_pyproject(tmp_path: Path) -> None:
    task = (
        "from fashiontl.data import Task; from fashiontl.extensions import register; register(Task('{0}', '', (1, 2)))"
    )
    (tmp_path / "first.py").write_text(task.format("mine"))
    (tmp_path / "second.py").write_text(task.format("yours"))
    (tmp_path / "pyproject.toml").write_text("[tool.fashiontl]\nextensions = ['first.py']")
    status, text = run("list", "--fashiontl-plugin", "second.py", folder=tmp_path)
    assert status == 0
    assert [line.split("  ")[0] for line in text.splitlines() if "Trouser, Pullover" in line] == [
        "fashion10", "fashion4", "mine", "yours"
    ]  # fmt: skip
    assert re.search(r"^first +task mine\nsecond +task yours$", text, re.MULTILINE)


def test_an_extension_that_fails_is_an_error_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_module")
    status, text = run("list", "--fashiontl-plugin", "mine.py", folder=tmp_path)
    path = tmp_path / "mine.py"
    assert (status, text) == (
        2,
        f"fashiontl list: extension {path}: {path}, line 1: ModuleNotFoundError: No module named 'no_such_module'\n",
    )


def test_leaderboard_without_results_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["leaderboard", "--results", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"fashiontl leaderboard: expected runs under {tmp_path}/nowhere/runs, got none; "
        f"run pytest bench/ --results {tmp_path}/nowhere first, or name another folder with --results\n"
    )
    assert not (tmp_path / "nowhere").exists()


def test_a_broken_line_is_named_and_the_others_are_shown(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["leaderboard", "--results", str(results)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{results}/leaderboard.md\n"
    fault = f"{results}/runs/machine/run.jsonl:2: expected one record in JSON, got: "
    assert captured.err.startswith(f"fashiontl leaderboard: warning: {fault}")
    assert len(captured.err.splitlines()) == 1
    page = (results / "leaderboard.md").read_text()
    assert "scratch" in page
    assert "linear_probe" in page
    assert "run.jsonl:2" in page


def test_a_page_that_cannot_be_written_is_an_error_without_traceback(results: Path) -> None:
    (results / "leaderboard.md").mkdir()
    status, text = run("leaderboard", "--results", str(results))
    assert status == 2
    assert f"fashiontl leaderboard: expected a file that can be written, got {results}/leaderboard.md: Is a" in text
    assert "Traceback" not in text


def test_output_into_a_closed_pipe_is_no_traceback() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "fashiontl.cli", "list"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")
