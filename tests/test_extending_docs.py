"""docs/extending.md: the page shows the files in docs/examples, and its commands run them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fashiontl.records import read_runs

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
COMMANDS = [
    block.replace("\\\n", " ") for block in re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
]


def test_the_page_shows_each_example_as_it_is() -> None:
    shown = dict(re.findall(r"^`(docs/examples/\w+\.py)`\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    assert shown == {str(path.relative_to(ROOT)): path.read_text() for path in EXAMPLES}


def test_files_and_tables_that_the_page_names_exist() -> None:
    rows = re.findall(r"^\| \w+ \| (.*) \| `(fashiontl/.*\.py)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for tables, file in rows:
        code = (ROOT / file).read_text()
        for table in re.findall(r"`(\w+)`", tables):
            assert re.search(rf"^{table}\b.*=", code, re.MULTILINE), table


def run(command: list[str]) -> str:
    assert command[:2] == ["pytest", "bench/"]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_first_command_collects_the_cells_that_it_names() -> None:
    shown = run([*shlex.split(COMMANDS[0]), "--device=cpu", "--collect-only", "-q"])
    assert re.findall(r"\[(.*)\]", shown) == ["tiny-scratch-cpu", "tiny-full-cpu-none"]


@pytest.mark.slow
def test_a_metric_and_a_phase_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    less = ["--set=accuracy=false", "--set=profile=false", "--set=threads=1"]
    run([*shlex.split(COMMANDS[2]), f"--results={tmp_path}", "--device=cpu", *less])
    runs = read_runs(tmp_path)
    assert runs.errors == ()
    [record] = runs.records
    assert (record.id, record.status) == ("resnet9-full-cpu-none", "ok")
    [logit] = record.values("largest_logit")
    assert logit > 0
    assert record.values("latency")
    assert list(record.provenance["extensions"]) == ["logits"]


@pytest.mark.slow
def test_a_device_and_a_report_section_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    less = ["--set=profile=false", "--set=threads=1", "--set=seconds=0.02"]
    run([*shlex.split(COMMANDS[3]), f"--results={tmp_path}", *less])
    records = {record.id: record for record in read_runs(tmp_path).records}
    assert {cell: record.status for cell, record in records.items()} == {
        "resnet9-full-hpu-none": "skipped",
        "resnet9-full-cpu-none": "ok",
    }
    assert "habana_frameworks" in records["resnet9-full-hpu-none"].reason
    command = [sys.executable, "-m", "fashiontl.cli", *shlex.split(COMMANDS[4])[1:], f"--results={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert "resnet9-full-cpu-none: " in (tmp_path / "leaderboard.md").read_text().partition("cheapest</summary>")[2]


@pytest.mark.slow
def test_the_three_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    run([*shlex.split(COMMANDS[1]), f"--results={tmp_path}", "--device=cpu", "--set=threads=1"])
    runs = read_runs(tmp_path)
    assert runs.errors == ()
    [record] = runs.records
    assert record.id == "tiny-ends-cpu-stripes-none"
    # Convolutions 3 x 8 x 9 + 8 and 8 x 16 x 9 + 16, BatchNorm 2 x 8 and 2 x 16, linear 16 x 2 + 2.
    assert record.values("parameters") == (224 + 16 + 1168 + 32 + 34,)
    assert record.values("trainable_parameters") == (224 + 16 + 34,)
    assert record.proof is not None
    assert record.proof.holds
    # Of stage1: weight and bias of its convolution and of its BatchNorm; the mean, variance and count of the latter.
    assert (record.proof.frozen_parameters, record.proof.frozen_buffers) == (4, 3)
    assert record.proof.trained_parameters == 6
    [confusion] = (evaluation["confusion"] for evaluation in record.provenance["evaluation"])
    # Two classes of five test images.
    assert [sum(row) for row in confusion] == [5, 5]
    assert record.provenance["data"]["source"] == "stripes"
    assert len(record.provenance["data"]["sha256"]) == 64
    assert sorted(record.provenance["extensions"]) == ["ends", "stripes", "tiny"]
