"""What a hostile command line meets: a message, a documented exit code, and never a traceback or a wait."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_raws import raw
from gate_repository import repository

from fashiontl import cli
from fashiontl.core import errors
from fashiontl.gate import commands
from fashiontl.gate.raw import write

Capture = pytest.CaptureFixture[str]
LONG = "a" * 5000
WAIVE = {
    "--cell": "resnet18-full-cpu", "--metric": "latency", "--ceiling": "5", "--owner": "ada", "--reason": "a fix",
    "--expires": "2026-12-01",
}  # fmt: skip
GATE = ["gate", "--base", "HEAD", "--arch", "resnet18", "--policy", "full", "--device", "cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_tables: None) -> Path:
    del own_tables
    for variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def end_of(arguments: list[str]) -> int:
    """The exit code of a command; argparse ends its own way."""
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def waive(**changed: str) -> list[str]:
    options = WAIVE | {f"--{name}": text for name, text in changed.items()}
    return ["waive", *(text for option in options.items() for text in option)]


NO_TEXT = {
    "list": "--data-root --fashiontl-plugin",
    "doctor": "--device --processes",
    "profile": "--arch --weights --preset --set --results",
    "leaderboard": "--results",
    "gate": "--base --replay --plan",
    "gate --replay x": "--results --json --markdown --junit",
    "gate --base x": "--budget --data-root --arch --image-size --batch --preset --set --fashiontl-plugin",
}


@pytest.mark.parametrize("command", NO_TEXT)
def test_an_empty_text_is_bad_input_of_every_option(command: str, capsys: Capture) -> None:
    for option in NO_TEXT[command].split():
        for text in ("", " "):
            assert end_of([*command.split(), option, text]) == 2
            said = capsys.readouterr().err
            assert "expected" in said or "unknown" in said
            assert repr(text) in said, option


@pytest.mark.parametrize("name", [name.removeprefix("--") for name in WAIVE])
def test_a_waivers_fields_are_texts_numbers_and_dates(name: str, capsys: Capture, here: Path) -> None:
    for text in ("", "\x1b[31m", "\n", "\0", *(["**"] if name not in {"owner", "reason"} else [])):
        assert end_of(waive(**{name: text})) == 2
        assert name in capsys.readouterr().err.splitlines()[-1]
    assert not (here / "results").exists()


AWKWARD = [
    LONG, "~nobody-here/x", "a\0b", "\udcff", "/dev/null/x", "-1", "9" * 5000, "é", "*", "a\nb", "/proc/self/mem/x",
]  # fmt: skip
PLACES = [
    ["list", "--fashiontl-plugin={}"], ["list", "--fashiontl-plugin={}.py"], ["doctor", "--device={}"],
    ["doctor", "--processes={}"], ["profile", "--arch={}"], ["profile", "--arch=resnet18", "--weights={}"],
    ["profile", "--set={}"], ["profile", "--top={}"], ["leaderboard", "--results={}"], ["gate", "--base={}"],
    ["gate", "--replay={}"], ["gate", "--plan={}"], ["gate", "--base=x", "--budget={}"],
    ["gate", "--base=x", "--weights={}"], ["gate", "--base=x", "--batch={}"],
    ["gate", "--base=x", "--task=fashion4@{}"],
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_awkward_texts_are_bad_input(number: int, capsys: Capture) -> None:
    # Every place with four kinds of text, every kind at some places.
    for text in {AWKWARD[(3 * number + step) % len(AWKWARD)] for step in range(4)}:
        if PLACES[number][-1] == "--results={}" and "/" not in text:
            continue  # a folder that may well be
        assert end_of([each.replace("{}", text) for each in PLACES[number]]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert "internal error" not in said
        assert said.strip()


MAKERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("no results"),
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\0\x80"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_no_file_of_the_kind_is_bad_input_and_is_not_waited_for(kind: str, here: Path, capsys: Capture) -> None:
    for name, arguments in (
        ("gate.json", ["gate", "--replay", "gate.json"]),
        ("plan.json", ["gate", "--plan", "plan.json"]),
        ("nets.py", ["list", "--fashiontl-plugin", "nets.py"]),
        ("pyproject.toml", ["list"]),
    ):
        if (name, kind) == ("pyproject.toml", "loop"):
            continue  # a link that leads nowhere is no file, as without it
        MAKERS[kind](here / name)
        assert end_of(arguments) == 2
        said = capsys.readouterr().err
        assert "expected" in said or "extension" in said
        assert "internal error" not in said


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"schema": 3}', '{"schema": 1e999}', "[" * 100_000, '{"a": 1, "a": 2}', "1" * 5000,
        "\0",
    ],
    ids=range(10),
)  # fmt: skip
def test_json_that_is_no_gate_is_bad_input(text: str, here: Path, capsys: Capture) -> None:
    (here / "gate.json").write_text(text)
    for way in ("--replay", "--plan"):
        assert end_of(["gate", way, "gate.json"]) == 2
        said = capsys.readouterr().err
        assert "gate.json" in said
        assert "got" in said


@pytest.mark.parametrize(
    "text",
    [
        "tool = 3", "[tool]\nfashiontl = 3", '[tool.fashiontl]\nextensions = "a"', "[tool.fashiontl]\nextensions = [1]",
        '[tool.fashiontl]\nextensions = ["a\\u0000.py"]', '[tool.fashiontl]\nextensions = ["a\\u0000"]',
        '[tool.fashiontl]\nextensions = ["~nobody-here/a.py"]', '[tool.fashiontl]\nextensions = [""]',
        f'[tool.fashiontl]\nextensions = ["{LONG}.py"]', "a = " + "[" * 5000, "a = 1979-99-99",
    ],
    ids=range(11),
)  # fmt: skip
def test_a_broken_pyproject_is_bad_input(text: str, here: Path, capsys: Capture) -> None:
    (here / "pyproject.toml").write_text(text)
    for arguments in (["list"], GATE):
        assert end_of(arguments) == 2
        assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "raise SystemExit", "raise SystemExit(0)", "1/0", "(", "raise BaseException('x')", "raise GeneratorExit",
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "raise RecursionError", "\0",
        "from fashiontl.matrix.extensions import register; register(3)",
    ],
)  # fmt: skip
def test_an_extension_may_raise_anything(text: str, here: Path, capsys: Capture) -> None:
    (here / "mine.py").write_text(text)
    assert end_of(["list", "--fashiontl-plugin", "mine.py"]) == 2
    said = capsys.readouterr().err
    assert "fashiontl list: extension " in said
    assert "mine.py" in said


@pytest.mark.slow
def test_a_base_that_is_what_is_checked_out_is_bad_input_unless_it_is_meant(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(here)
    (here / "__pycache__").mkdir()
    (here / "__pycache__" / "nets.cpython-311.pyc").write_bytes(b"written by Python")

    def opened(*_: object, **__: object) -> Any:
        raise errors.FashiontlError("as far as this test goes")

    monkeypatch.setattr("fashiontl.gate.runner.opened_gate", opened)
    for base in ("HEAD", "base", "main"):
        assert end_of(["gate", "--base", base, *GATE[3:]]) == 2
        said = capsys.readouterr().err
        assert f"expected --base to name another commit than the working tree is, got {base!r}" in said
        assert "HEAD~1" in said
    assert end_of([*GATE, "--unchanged"]) == 2
    (here / "untracked.py").write_text("")
    assert end_of(GATE) == 2
    assert capsys.readouterr().err.count("as far as this test goes") == 2


def in_process(here: Path, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "fashiontl.cli", *arguments]
    return subprocess.run(command, cwd=here, stderr=subprocess.PIPE, check=False, timeout=120, **more)


@pytest.fixture
def failing(here: Path) -> Path:
    """A gate's file whose verdict is CRASHED, 12."""
    write(raw(), here / "gate.json")
    return here


def test_the_exit_code_is_the_verdicts_when_nobody_reads(failing: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = in_process(failing, "gate", "--replay", "gate.json", stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (12, b"")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
def test_a_full_disk_changes_no_verdict_and_is_told(failing: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = in_process(failing, "gate", "--replay", "gate.json", stdout=full)
        assert done.returncode == 12
        assert b"expected an output that can be written, got: No space left on device" in done.stderr
        done = in_process(failing, "list", stdout=full)
        assert done.returncode == 2, "where there is no verdict, an answer that is lost is no success"
        command = [sys.executable, "-m", "fashiontl.cli", "gate", "--replay", "gate.json"]
        assert subprocess.run(command, cwd=failing, stdout=full, stderr=full, check=False).returncode == 12


def test_closed_streams_change_no_verdict(failing: Path) -> None:
    command = f'"{sys.executable}" -m fashiontl.cli gate --replay gate.json --json again.json <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], cwd=failing, check=False, timeout=120).returncode == 12
    assert json.loads((failing / "again.json").read_text())["schema"] == 3, "no output was written into a file"


def test_an_output_that_cannot_hold_a_letter_changes_no_verdict(failing: Path) -> None:
    more = {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
    write(raw(machine="größe €"), failing / "gate.json")
    done = in_process(failing, "gate", "--replay", "gate.json", stdout=subprocess.PIPE, env=os.environ | more)
    assert (done.returncode, done.stderr) == (12, b"")
    assert rb"gr\xf6\xdfe" in done.stdout


def test_reports_that_are_lost_after_the_verdict_change_no_exit_code(
    failing: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fashiontl.gate.raw.write_atomically", full)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(failing / "no folder" / "summary"))
    options = ["--json", "a.json", "--markdown", "a.md", "--junit", "a.xml"]
    assert cli.main(["gate", "--replay", "gate.json", *options]) == 12
    captured = capsys.readouterr()
    lost = [line.partition("got ")[2].partition(":")[0] for line in captured.err.splitlines()]
    assert lost == ["a.json", "a.md", "a.xml"]
    assert "CRASHED, exit code 12" in captured.out
    # Nor does one that cannot be made.
    monkeypatch.setattr("fashiontl.gate.report.markdown", lambda verdict: 1 / 0)
    assert cli.main(["gate", "--replay", "gate.json", "--markdown", "a.md"]) == 12
    captured = capsys.readouterr()
    assert "internal error ZeroDivisionError" in captured.err
    assert "CRASHED, exit code 12" in captured.out


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/null"])
def test_a_device_is_no_file_for_a_report(failing: Path, name: str, capsys: Capture) -> None:
    assert cli.main(["gate", "--replay", "gate.json", "--json", name]) == 2
    assert "expected a file for a report" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device()
    assert cli.main(["gate", "--replay", "gate.json", "--json", "a", "--markdown", str(failing / "a")]) == 2
    assert "expected a file for each report" in capsys.readouterr().err


@pytest.mark.parametrize(
    "idle",
    [
        ["--arch", "vgg11"], ["--set", "epochs=1"], ["--fashiontl-plugin", "x"], ["--data-root", "x"],
        ["--preset", "smoke"], ["--accuracy"], ["--unchanged"], ["--budget", "1"],
    ],
    ids=lambda idle: idle[0],
)  # fmt: skip
def test_what_says_what_to_measure_is_not_dropped_where_nothing_is_measured(
    failing: Path, idle: list[str], capsys: Capture
) -> None:
    del failing
    for way in ("--replay", "--plan"):
        assert cli.main(["gate", way, "gate.json", *idle]) == 2
        assert f"expected {idle[0]} beside --base, which measures, got {way}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["list"], ["leaderboard"], GATE, waive()], ids=lambda c: c[0])
def test_a_defect_is_one_line_with_a_report_and_its_own_exit_code(
    command: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a\nb\x1b[31m")

    for place in ("reports.listing.listing", "reports.leaderboard.page.write"):
        monkeypatch.setattr(f"fashiontl.{place}", broken)
    monkeypatch.setattr(commands, "matrix", broken)
    monkeypatch.setattr(commands, "Terms", broken)
    assert cli.main(command) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert f"fashiontl {command[0]}: internal error KeyError: " in line
    assert "\x1b" not in line
    (report,) = (here.parent / "state" / "fashiontl").iterdir()
    assert str(report) in line
    text = report.read_text()
    assert "Traceback" in text
    assert "KeyError" in text


def test_a_report_goes_elsewhere_where_the_users_folder_cannot_be_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/x")
    monkeypatch.setattr("tempfile.tempdir", str(here))
    assert str(here) in errors.internal_error("here", KeyError("x"))
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/y")
    assert "no folder could be written" in errors.internal_error("here", KeyError("x"))


def test_a_current_folder_that_is_gone_is_bad_input(here: Path, capsys: Capture) -> None:
    here.rmdir()
    assert cli.main(["leaderboard"]) == 2
    assert "expected a current folder that exists" in capsys.readouterr().err


def test_without_git_the_gate_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(GATE) == 2
    assert "expected git, which gives the gate its base, got none on PATH" in capsys.readouterr().err


def damaged(folder: Path) -> None:
    repository(folder)
    for path in (folder / ".git" / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"no object")


@pytest.mark.parametrize(
    "make",
    [
        damaged,
        lambda folder: (folder / ".git").write_text("gitdir: /nowhere\n"),
        lambda folder: subprocess.run(["git", "init", "--quiet", str(folder)], check=True),
        lambda folder: subprocess.run(["git", "init", "--quiet", "--bare", str(folder)], check=True),
        lambda folder: None,
    ],
    ids=["damaged", "elsewhere", "unborn", "bare", "none"],
)
def test_a_repository_that_is_none_is_bad_input(make: Callable[[Path], object], here: Path, capsys: Capture) -> None:
    make(here)
    assert cli.main(GATE) == 2
    said = capsys.readouterr().err
    assert "expected" in said
    assert "got" in said


def test_an_interrupt_is_130_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fashiontl.gate.raw.read", interrupted)
    assert cli.main(["gate", "--replay", "gate.json"]) == 130
