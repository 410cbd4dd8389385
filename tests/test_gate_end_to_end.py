"""Real gates in a small repository: real trees, real processes, real times. No verdict, and no time, is asserted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from gate_repository import CASE, PROJECT, git, nets, repository

from fashiontl.core.case import PRESETS, Case
from fashiontl.gate import runner
from fashiontl.gate.arm import IncomparableError
from fashiontl.gate.limits import Limit
from fashiontl.gate.raw import Raw, Trial, from_json, to_json
from fashiontl.gate.runner import Gate, Order, opened_gate
from fashiontl.gate.sequential import evidence_of
from fashiontl.gate.trial import LEAST_ROUNDS

pytestmark = pytest.mark.slow

SETTINGS = replace(PRESETS["smoke"], threads=1, seconds=0.1)
# Far more than the whole network takes.
HEAVY = "product = torch.randn(400, 400)\nfor _ in range(8):\n    product @ product"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of the screen and one of the confirmation, of six rounds, and two processes that count."""

    def rule(trials: Sequence[Trial], limit: Limit, budget: int) -> str:
        assert limit.kind == "timed"
        assert budget
        return ("screen", "confirm", "stop")[len(trials)]

    whole = runner.Gate.__init__
    monkeypatch.setattr(runner.Gate, "__init__", lambda *given, **more: whole(*given, **more, rule=rule))
    monkeypatch.setattr("fashiontl.gate.untimed.processes_of", lambda cell: 2)
    monkeypatch.setattr("fashiontl.gate.trial.MOST_ROUNDS", LEAST_ROUNDS)


def gated(folder: Path, *cases: Case, use: Callable[[Gate], Raw] = Gate.measure, **more: object) -> Raw:
    order = Order(cases or (CASE,), replace(SETTINGS, **more), accuracy=True)  # type: ignore[arg-type]
    with opened_gate("base", order, folder=folder, cache=folder / ".cache") as gate:
        raw = use(gate)
    assert from_json(to_json(raw), "here") == raw
    assert git(folder, "worktree", "list", "--porcelain").count("worktree ") == 1
    return raw


def test_a_slower_head(tmp_path: Path) -> None:
    folder = repository(tmp_path / "project")
    (folder / "nets.py").write_text(nets(HEAVY))
    explained = []

    def use(gate: Gate) -> Raw:
        raw = gate.measure()
        explained.append(gate.explain([(CASE.id, "train_throughput"), (CASE.id, "parameters")]))
        return raw

    raw = gated(folder, use=use)
    assert (raw.base.module, raw.head.module) == ("nets.py", "nets.py")
    assert (raw.base.dirty, raw.head.dirty, raw.base.commit) == (False, True, raw.head.commit)
    assert (raw.cells, raw.new, raw.removed, raw.failures) == ((CASE.id,), (), (), ())
    assert [series.metric for series in raw.series] == ["latency", "inference_throughput", "train_throughput"]
    for series in raw.series:
        assert [trial.stage for trial in series.trials] == ["screen", "confirm"]
        for trial in series.trials:
            lengths = {len(times) for times in (trial.base, trial.head, trial.reference_base, trial.reference_head)}
            assert lengths == {2 * LEAST_ROUNDS}
            assert trial.first in {"base", "head"}
        assert evidence_of(series.trials).screen[0] > 0
    counts = {found.metric: (found.base, found.head) for found in raw.counts}
    assert {len(arm) for arms in counts.values() for arm in arms} == {2}
    assert set(counts["parameters"][0]) == set(counts["parameters"][1])
    assert "training_peak_memory" in counts
    ((pair,),) = [answers.seeds for answers in raw.answers]
    assert (pair.weights_base, pair.answers_base) == (pair.weights_head, pair.answers_head)
    assert len(pair.right_base) == 20
    ((found, warnings),) = explained
    assert warnings == ()
    assert (found[0].operator, found[0].module, found[0].metric) == ("aten::mm", "stage1.1", "train_throughput")
    assert found[0].head_seconds > found[0].base_seconds == 0
    assert 0.5 < found[0].share <= 1


def test_a_head_that_does_not_run(tmp_path: Path) -> None:
    folder = repository(tmp_path / "project")
    (folder / "nets.py").write_text(nets("import os\nos.abort()"))
    raw = gated(folder)
    (failure,) = raw.failures
    assert (failure.cell, failure.arm, failure.kind) == (CASE.id, "head", "crashed")
    assert failure.reason.startswith("inference: the process ended with signal SIGABRT")
    assert raw.series == ()


def test_a_head_that_hangs_in_its_slices(tmp_path: Path) -> None:
    folder = repository(tmp_path / "project")
    # Fine until the 200th call of a process that takes turns, which is after its warm-up.
    late = "import sys\nself.calls = getattr(self, 'calls', 0) + ('slices' in sys.modules['nets'].PHASE())\n"
    late += "if self.calls > 200:\n    time.sleep(1000)"
    phase = "\n\ndef PHASE():\n    import traceback\n    return {f.name for f in traceback.extract_stack()}\n"
    (folder / "nets.py").write_text(nets(late) + phase)
    raw = gated(folder, timeout=20.0)
    (failure,) = raw.failures
    assert (failure.arm, failure.kind) == ("head", "timeout")
    assert "latency took longer than 20 s" in failure.reason
    assert raw.counts


def test_cells_of_one_tree(tmp_path: Path) -> None:
    folder = repository(tmp_path / "project")
    (folder / "nets.py").write_text(nets(names=("fresh",)))
    fresh = replace(CASE, architecture="fresh")
    raw = gated(folder, fresh, CASE)
    assert (raw.cells, raw.new, raw.removed) == ((fresh.id,), (fresh.id,), (CASE.id,))
    assert [(failure.cell, failure.arm, failure.kind) for failure in raw.failures] == [(CASE.id, "head", "missing")]
    assert "'tiny'" in raw.failures[0].reason
    assert raw.series == raw.counts == ()


def test_a_base_that_cannot_be_imported(tmp_path: Path) -> None:
    folder = repository(tmp_path / "project", {"pyproject.toml": PROJECT, "nets.py": nets() + "\n1 / 0\n"})
    (folder / "nets.py").write_text(nets())
    with pytest.raises(IncomparableError, match=r"^base \(.*\) cannot be imported: .*ZeroDivisionError") as caught:
        gated(folder)
    assert caught.value.verdict == "CRASHED"
    assert git(folder, "worktree", "list", "--porcelain").count("worktree ") == 1
