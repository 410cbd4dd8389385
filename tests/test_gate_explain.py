from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fashiontl.core.case import PRESETS, Case
from fashiontl.gate.explain import explain, growth, typical
from fashiontl.profiling.operators import OTHERS, Operator, Profile
from fashiontl.runner.client import Outcome
from fashiontl.runner.messages import PROFILE, PhaseResult

SETTINGS = replace(PRESETS["smoke"], threads=1)


def row(name: str, module: str, cpu: float, phase: Any = "forward", device: float = 0.0) -> Operator:
    return Operator(name, module, phase, 1.0, cpu, device, None, 0.0)


def profile(*rows: Operator) -> Profile:
    return Profile(rows, (), None, 2, 1.0, None, None, ())


def test_the_largest_growth_comes_first_with_its_share() -> None:
    before = profile(row("conv", "a", 1.0), row("conv", "b", 2.0), row("add", "b", 3.0), row(OTHERS, "", 1.0, "other"))
    after = profile(
        row("conv", "a", 1.5), row("conv", "b", 4.0), row("mm", "b", 1.0, device=0.5), row("add", "b", 2.0),
        row(OTHERS, "", 2.0, "other"),
    )  # fmt: skip
    found = growth("cell", "latency", before, after)
    assert [(one.operator, one.module, one.base_seconds, one.head_seconds, one.share) for one in found] == [
        ("conv", "b", 2.0, 4.0, 0.4), ("mm", "b", 0.0, 1.5, 0.3), ("conv", "a", 1.0, 1.5, 0.1),
    ]  # fmt: skip
    assert {(one.cell, one.metric) for one in found} == {("cell", "latency")}


def test_forward_and_backward_of_an_operator_are_one_growth() -> None:
    before = profile(row("mm", "a", 1.0), row("mm", "a", 2.0, "backward"))
    after = profile(row("mm", "a", 2.0), row("mm", "a", 4.0, "backward"))
    (found,) = growth("cell", "latency", before, after)
    assert (found.base_seconds, found.head_seconds, found.share) == (3.0, 6.0, 1.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.floats(0, 10), st.floats(0, 10)), max_size=12, unique_by=lambda one: one[0]
    )
)
def test_shares_are_of_all_that_grew(times: list[tuple[int, float, float]]) -> None:
    before = profile(*(row(f"operator{number}", "", first) for number, first, _ in times))
    after = profile(*(row(f"operator{number}", "", second) for number, _, second in times))
    found = growth("cell", "latency", before, after)
    assert len(found) <= 3
    assert sum(one.share for one in found) <= 1 + 1e-9
    assert all(0.05 < one.share <= 1 and one.head_seconds > one.base_seconds for one in found)
    # The largest of twelve is more than a twentieth of all.
    assert bool(found) == any(second > first for _, first, second in times)


def test_of_several_profiles_each_row_is_the_median() -> None:
    found = typical(
        [
            profile(row("mm", "a", 1.0, device=4.0), row("add", "a", 1.0)),
            profile(row("mm", "a", 9.0, device=5.0)),
            profile(row("mm", "a", 2.0, device=6.0), row("mm", "a", 3.0, "backward")),
        ]
    )
    assert [(each.name, each.phase, each.self_cpu_s, each.self_device_s) for each in found.operators] == [
        ("mm", "forward", 2.0, 5.0), ("add", "forward", 0.0, 0.0), ("mm", "backward", 0.0, 0.0),
    ]  # fmt: skip


class FakeArm:
    def __init__(self, name: str, log: list[str], answer: Profile | Outcome[Any]) -> None:
        self._name = name
        self._log = log
        self._answer = answer
        self.asked: list[Case] = []

    def run(self, phase: Any, case: Case, settings: Any, progress: Any, **more: Any) -> Outcome[Any]:
        assert (phase, settings) == (PROFILE, SETTINGS)
        assert Path(more["traces"]).is_dir()
        progress(self._name)
        self._log.append(self._name)
        self.asked.append(case)
        answer = self._answer
        if isinstance(answer, Outcome):
            return answer
        return Outcome("ok", "", PhaseResult(provenance={"profile": asdict(answer)}))


def explained(
    base: Profile | Outcome[Any], head: Profile | Outcome[Any], metrics: list[str]
) -> tuple[Any, list[str], list[str]]:
    log: list[str] = []
    arms: Any = {"base": FakeArm("base", log, base), "head": FakeArm("head", log, head)}
    found, warnings = explain(arms, Case("resnet18", "full"), metrics, SETTINGS, lambda text: None)
    assert {case.weights for arm in arms.values() for case in arm.asked} == {"none"}, "nothing is trained for it"
    return found, warnings, log


def test_inference_is_explained_by_the_forward_pass_alone() -> None:
    before = profile(row("mm", "a", 1.0), row("mm", "a", 1.0, "backward"))
    after = profile(row("mm", "a", 1.5), row("mm", "a", 3.0, "backward"))
    found, warnings, log = explained(before, after, ["latency", "train_throughput"])
    assert [(one.metric, one.base_seconds, one.head_seconds) for one in found] == [
        ("latency", 1.0, 1.5),
        ("train_throughput", 2.0, 4.5),
    ]
    assert warnings == []
    assert log == ["base", "head", "head", "base", "base", "head"]


def test_what_does_not_show_in_a_profile_is_said() -> None:
    same = profile(row("mm", "a", 1.0))
    found, warnings, _ = explained(same, same, ["latency"])
    assert (found, warnings) == ([], ["resnet18-full-cpu, latency: slower, but no operator is under the profiler"])
    found, warnings, log = explained(Outcome("oom", "too large"), same, ["latency"])
    assert (found, warnings) == ([], ["resnet18-full-cpu: the base could not be profiled: too large"])
    assert log == ["base"]
