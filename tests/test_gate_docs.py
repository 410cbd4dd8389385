"""docs/gate.md says what the gate does."""

import re
from pathlib import Path

import pytest
from records import tables

from fashiontl.gate.limits import LIMITS, TAIL, limit_of
from fashiontl.gate.result import EXIT_CODES
from fashiontl.gate.sequential import LOOKS
from fashiontl.gate.waivers import LONGEST

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gate.md").read_text()
COMPARED, VERDICTS = tables(PAGE)


def test_every_verdict_stands_beside_its_exit_code() -> None:
    found = {verdict: int(row[0]) for row in VERDICTS[1:] for verdict in re.findall(r"`([A-Z_]+)`", row[1])}
    assert found == EXIT_CODES


def test_the_verdicts_that_fail_stand_in_the_order_in_which_they_decide() -> None:
    (sentence,) = re.findall(r"Of several, the first of these decides: ([^.]*)\.", PAGE)
    assert re.findall(r"[A-Z_]+", sentence) == [verdict for verdict, code in EXIT_CODES.items() if code]


def test_the_limits_are_those_of_the_gate() -> None:
    said = dict(COMPARED[1:])

    def percents(metric: str) -> str:
        return f"{100 * LIMITS[metric].tolerated:g} %, {100 * LIMITS[metric].detect:g} %"

    assert {percents(name) for name in ("latency", "inference_throughput", "train_throughput")} == {
        said["latency, inference and training throughput"]
    }
    assert percents("training_peak_memory") == percents("inference_peak_memory") == said["peak memory on the CPU"]
    accuracy = LIMITS["accuracy"]
    assert (
        f"{100 * accuracy.tolerated:g}, {100 * accuracy.detect:g} points"
        == (said["accuracy, seed by seed on the same images"])
    )
    cuda = limit_of("resnet18-full-cuda", "training_peak_memory")
    assert cuda is not None
    assert (cuda.tolerated, cuda.floor) == (0.01, 2**20)
    assert said["peak memory on CUDA"] == "equal, or else the larger of 1 % and 1 MiB"
    assert TAIL.percentile == 95
    assert len(said) == 6


def test_links_lead_somewhere() -> None:
    if not (ROOT / ".github").exists():
        pytest.skip("a source distribution has no workflows")
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists()


def test_the_example_for_gitlab_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    gate = yaml.safe_load(example)["gate"]
    assert gate["artifacts"]["reports"] == {"junit": "gate.xml"}
    assert gate["variables"] == {"GIT_DEPTH": 0}


def test_the_other_numbers_are_those_of_the_gate() -> None:
    assert f"{', '.join(map(str, LOOKS[:-1]))} and {LOOKS[-1]} trials" in PAGE.replace("\n", " ")
    assert f"ends after {LONGEST.days} days at the latest" in PAGE
