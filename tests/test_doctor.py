"""The doctor, with a worker that answers what a test says; the real one is in test_phases_box.py and test_cli.py."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.stats import smallest_difference
from fashiontl.doctor import Line, Report, Section, examination, to_json, to_text
from fashiontl.doctor.examination import PROCESSES, examine
from fashiontl.machine.conditions import Conditions, Observation
from fashiontl.machine.devices import Device
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.messages import DeviceFacts, Noise, TimedJob

MEDIANS = (0.0040, 0.0041, 0.0040, 0.0041, 0.0040, 0.0041, 0.0040, 0.0041)


HERE = DeviceFacts(facts={"accelerator": "Sparrow 7", "driver": None})
UNTIMED = Noise(None, None, steady=False)


class Fake(Worker):
    """A worker whose answers are written down by phase: a result, an outcome, or a function of the job."""

    def __init__(self, **answers: Any) -> None:
        super().__init__(threads=1)
        medians = iter(MEDIANS)
        self.jobs: list[tuple[str, Any]] = []
        self.answers = {
            "device": HERE,
            "peak": {"matmul": 90e9, "convolution": 14e9},
            "noise": lambda job: Noise(next(medians), 0.004, steady=True),
            **answers,
        }

    def run(self, phase: Any, job: Any, timeout: float, progress: Any = None) -> Any:
        del timeout, progress
        self.jobs.append((phase.name, job))
        answer = self.answers[phase.name]
        answer = answer(job) if callable(answer) else answer
        return answer if isinstance(answer, Outcome) else Outcome("ok", "", answer)


class Quiet:
    """An observer to whom nothing happens."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def begin(self) -> None:
        pass

    def end(self) -> Observation:
        return Observation(Conditions(2.0), Conditions(2.0, load=0.5), [])


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASHIONTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(examination, "Observer", Quiet)
    monkeypatch.setattr(examination, "clock_ratio", lambda: 1.00002)


def examined(name: str = "cpu", **answers: Any) -> Report:
    return examine(Fake(**answers), Device.of(name), lambda text: None)


def lines(report: Report, title: str) -> dict[str, Line]:
    (section,) = (section for section in report.sections if section.title == title)
    return {line.name: line for line in section.lines}


def test_a_box_that_can_measure() -> None:
    worker, seen = Fake(), []
    report = examine(worker, Device.of("cpu"), seen.append, seconds=0.7)
    deviation = math.log(0.0041 / 0.0040) * math.sqrt(8 / 7) / 2
    difference = math.expm1(smallest_difference(deviation, 8))
    assert report.fit
    told = f"differences of about {difference * 100:.1f} % can be told apart with 8 processes a side"
    assert report.summary == f"This box can measure on cpu: {told}."
    assert report.facts["noise"] == {
        "deviation": pytest.approx(deviation),
        "smallest_difference": pytest.approx(difference),
        "processes": 8,
        "medians": list(MEDIANS),
        "half_widths": [0.004] * 8,
    }
    assert report.facts["peak"] == {name: {"matmul": 90e9, "convolution": 14e9} for name in ("fp32", "bf16")}
    assert [phase for phase, _ in worker.jobs] == ["device", "peak", "peak"] + ["noise"] * PROCESSES
    assert worker.jobs[-1][1] == TimedJob("cpu", seconds=0.7)
    assert seen == ["waiting for cpu", *(f"noise floor, process {number} of 8" for number in range(1, 9))]


def test_what_people_read() -> None:
    report = examined()
    assert lines(report, "device cpu")["accelerator"] == Line("accelerator", "Sparrow 7")
    assert "driver" not in lines(report, "device cpu"), "what is unknown is left out"
    assert lines(report, "device cpu")["clock against another"] == Line("clock against another", "1.0000")
    assert lines(report, "arithmetic peak, measured")["bf16"].value == "matmul 90 GFLOP/s, convolution 14 GFLOP/s"
    floor = lines(report, "noise floor")
    assert floor["a small training step"].value == "4.05 ms"
    assert floor["between processes"].value == "1.3 %"
    assert floor["within a process"].value == "0.40 %"
    assert floor["steady"] == Line("steady", "8 of 8 processes")
    text = to_text([report], [Section("extras", (Line("peft", "absent", "note", "pip install it"),))])
    assert text.splitlines()[0] == report.summary
    assert "\nextras\n" in text
    assert "note  peft  absent  pip install it" in text


def test_an_absent_device_is_told_and_nothing_is_measured() -> None:
    worker = Fake(device=DeviceFacts("torch sees no NVIDIA GPU"))
    report = examine(worker, Device.of("cuda"), lambda text: None)
    assert report == Report("cuda", False, "This box cannot measure on cuda: torch sees no NVIDIA GPU.")
    assert len(worker.jobs) == 1
    crashed = examined("cuda", device=Outcome("crashed", "device: the driver is gone"))
    assert crashed.summary == "This box cannot measure on cuda: device: the driver is gone."


def test_a_clock_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "clock_ratio", lambda: 1.03)
    report = examined()
    assert not report.fit
    assert "cannot measure on cpu: the clock that times cases runs at 1.03 of the speed" in report.summary
    assert lines(report, "device cpu")["clock against another"].verdict == "bad"


def test_a_peak_that_is_unknown_is_no_failure() -> None:
    answers = {"fp16": Outcome("oom", "no memory"), "bf16": {}}
    report = examined("cuda:1", peak=lambda job: answers.get(job.precision, {"matmul": 1e12}))
    assert report.fit
    found = lines(report, "arithmetic peak, measured")
    assert [(name, line.verdict, line.advice) for name, line in found.items()] == [
        ("fp32", "ok", ""), ("tf32", "ok", ""), ("bf16", "note", "too little memory"), ("fp16", "note", "no memory"),
    ]  # fmt: skip
    assert report.facts["peak"] == {"fp32": {"matmul": 1e12}, "tf32": {"matmul": 1e12}}


@pytest.mark.parametrize(
    ("factor", "fit", "verdict"), [(1.0, True, "ok"), (1.02, True, "ok"), (1.1, True, "note"), (2.0, False, "bad")]
)
def test_the_noise_floor_is_judged(factor: float, fit: bool, verdict: str) -> None:
    medians = iter([0.004, 0.004 * factor] * 4)
    report = examined(noise=lambda job: Noise(next(medians), None, steady=False))
    line = lines(report, "noise floor")["smallest difference"]
    assert (report.fit, line.verdict) == (fit, verdict)
    assert lines(report, "noise floor")["steady"].verdict == "note"
    assert lines(report, "noise floor")["within a process"].value == "unknown"
    if not fit:
        assert "differs so much between processes" in report.summary


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Outcome("timeout", "noise took longer than 120 s"), "noise took longer than 120 s"),
        (UNTIMED, "every sample was taken while the machine was throttled"),
    ],
)
def test_processes_that_were_not_timed(answer: Any, reason: str) -> None:
    report = examined(noise=answer)
    assert not report.fit
    assert report.summary == f"This box cannot measure on cpu: processes were not timed: {reason}."
    assert report.facts["noise"]["smallest_difference"] is None
    one_short = iter([answer, *(Noise(1.0, 0.1, steady=True),) * 7])
    report = examined(noise=lambda job: next(one_short))
    assert (report.fit, report.facts["noise"]["smallest_difference"]) == (False, 0.0)


def test_json_is_one_object_without_what_json_has_not() -> None:
    found = json.loads(to_json([examined(), examined("mps", device=DeviceFacts("no"))], []))
    assert found["fit"] is False
    assert [(device["device"], device["fit"]) for device in found["devices"]] == [("cpu", True), ("mps", False)]
    assert found["devices"][0]["facts"]["clock"] == 1.00002
    assert found["devices"][0]["facts"]["conditions"]["after"]["load"] == 0.5
    assert found["devices"][0]["facts"]["noise"]["medians"] == list(MEDIANS)
    assert found["equipment"] == []
