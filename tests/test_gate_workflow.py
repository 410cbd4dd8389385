from pathlib import Path
from typing import Any

import pytest

from fashiontl.gate.report import MARKER

WORKFLOW = Path(__file__).parent.parent / ".github" / "workflows" / "gate.yml"
# A source distribution has the tests and no workflows.
pytestmark = pytest.mark.skipif(not WORKFLOW.exists(), reason="not a clone")


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml")
    loaded = yaml.safe_load(WORKFLOW.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def steps(workflow: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    return {step.get("name") or step["uses"].partition("@")[0]: step for step in workflow["jobs"]["gate"]["steps"]}


def test_it_runs_on_pull_requests_and_may_only_comment(workflow: dict[Any, Any]) -> None:
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True] == {"pull_request": None}
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_the_base_is_there(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["actions/checkout"]["with"]["fetch-depth"] == 0
    assert steps["Gate"]["env"] == {"BASE": "origin/${{ github.base_ref }}"}
    assert '--base "$BASE"' in steps["Gate"]["run"]


def test_the_gate_alone_decides(steps: dict[str, dict[str, Any]]) -> None:
    assert not {"continue-on-error", "if"} & steps["Gate"].keys()
    names = list(steps)
    after = names[names.index("Gate") + 1 :]
    assert after == ["Keep the files", "Comment"]
    assert all("!cancelled()" in steps[name]["if"] for name in after)
    assert steps["Comment"]["continue-on-error"] is True


def test_what_the_gate_writes_is_kept(steps: dict[str, dict[str, Any]]) -> None:
    for option, file in (("--markdown", "comment.md"), ("--junit", "gate.xml"), ("--json", "gate.json")):
        assert f"{option} {file}" in steps["Gate"]["run"]
        assert file in steps["Keep the files"]["with"]["path"].split()


def test_the_comment_is_found_by_the_marker(steps: dict[str, dict[str, Any]]) -> None:
    assert f"const marker = '{MARKER}';" in steps["Comment"]["with"]["script"]


def test_nothing_of_a_pull_request_is_put_into_a_script(steps: dict[str, dict[str, Any]]) -> None:
    scripts = [step.get("run", "") + step.get("with", {}).get("script", "") for step in steps.values()]
    assert not any("${{" in script for script in scripts)
