"""README and the user guide: every command is executed, every link leads somewhere, every option is named."""

import os
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from fashiontl.gate.result import EXIT_CODES, NO_TIME
from fashiontl.matrix.options import AXES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
# README's two commands are executed by .ci/run, as is what sets up an environment; the rest needs a GPU or a person.
ELSEWHERE = re.compile(r"python3 -m venv .*|\S*pip install .*|\S*pre-commit install|tensorboard .*|.*--device cuda.*")
HERE = [command for command in COMMANDS if not ELSEWHERE.fullmatch(command)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git has, or would have, in a repository of their own, with a commit to compare with."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (
        "init -q -b main", "add -A", "-c user.name=n -c user.email=e@example.org commit -q -m base",
        "update-ref refs/remotes/origin/main HEAD",
    ):  # fmt: skip
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    (folder / "fashiontl" / "changed.py").write_text("")
    return folder


@pytest.mark.parametrize("environment", ["tests", "bench"])
def test_ci_executes_the_two_commands_that_do_all_the_set_up(environment: str) -> None:
    found = [command for command in commands(README) if command.endswith(f"tox run -e {environment}")]
    pattern = re.search(r"grep -m 1 -E \"(.*)\" README.md", (ROOT / ".ci" / "run").read_text())
    assert pattern
    wanted = pattern.group(1).replace("$1", environment)
    assert [line for line in README.read_text().splitlines() if re.search(wanted, line)] == found
    assert len(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE)
def test_command(command: str, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The smallest settings, and one cheap cell beside those that the command names. The command itself is as printed,
    # but for a date, which has to be near, and for half a minute that a gate is given.
    if command.startswith("fashiontl gate"):
        command += " --budget 0.5"
    command = re.sub(r"(--expires) \S+", rf"\1 {date.today() + timedelta(days=30)}", command)
    cheap = "resnet18" if " -k " in command else "resnet9"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_ADDOPTS": f"--preset smoke --arch {cheap} --set profile=false --set seconds=0.02",
        "FASHIONTL_CACHE": str(tmp_path_factory.getbasetemp() / "readme-cache"),
    }
    result = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    # On a box that is busy with tests the doctor may well say that it cannot measure there, and the gate that it cannot
    # decide, or that half a minute left no time to measure, which are answers.
    allowed = {"fashiontl doctor": {0, 1}}.get(command, {0, 10} if "gate" in command else {0})
    if NO_TIME in result.stdout:
        allowed = {*allowed, EXIT_CODES["MISSING"]}
    assert result.returncode in allowed, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Traceback" not in result.stderr


def test_links_point_at_files() -> None:
    for page in PAGES:
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
        assert [link for link in links if link and not (page.parent / link).exists()] == [], page


def test_the_options_table_names_every_option() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    for option in [*AXES, "preset", "set", "data-root", "results", "resume", "fashiontl-plugin"]:
        assert f"| `--{option.replace('_', '-')}` |" in page
