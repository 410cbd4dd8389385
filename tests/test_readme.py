"""Every command in the README is executed: here, or, for the one that passes the tests, by .ci/run itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
TESTS = [command for command in COMMANDS if command.endswith("tox run -e tests")]
OTHERS = [command for command in COMMANDS if command not in TESTS]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git has, or would have, in a folder of their own."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_ci_executes_the_test_command() -> None:
    assert len(TESTS) == 1
    pattern = re.search(r"grep -m 1 -E '(.*)' README.md", (ROOT / ".ci" / "run").read_text())
    assert pattern
    assert [line for line in README.splitlines() if re.search(pattern.group(1), line)] == TESTS


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHERS)
def test_command(command: str, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The smallest settings, and one cheap cell beside those that the command names; the command itself is as printed.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "--preset smoke --arch resnet18",
        "FASHIONTL_CACHE": str(tmp_path_factory.getbasetemp() / "readme-cache"),
    }
    result = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    # On a box that is busy with tests the doctor may well say that it cannot measure there, which is an answer.
    allowed = {0, 1} if command == "fashiontl doctor" else {0}
    assert result.returncode in allowed, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Traceback" not in result.stderr


def test_links_point_at_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_options_table_names_every_option() -> None:
    from fashiontl.plugin import AXES

    for option in [*AXES, "preset", "set", "data-root", "results", "resume", "spread", "fashiontl-plugin"]:
        assert f"| `--{option.replace('_', '-')}` |" in README
