"""The doctor, with a worker that answers what a test says; the real one is in test_phases_box.py and test_cli.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from fashiontl.core.slices import Series
from fashiontl.doctor import Line, Report, Section, detection, examination, to_json, to_text
from fashiontl.doctor.detection import Sides
from fashiontl.doctor.examination import examine
from fashiontl.machine.conditions import Conditions, Observation
from fashiontl.machine.devices import Device
from fashiontl.runner.client import Outcome, Worker
from fashiontl.runner.messages import DeviceFacts


def sides(spread: float) -> Sides:
    """A network whose slices of 4 ms differ by a factor and its inverse, in four processes a side."""
    logs = tuple(-5.52 + spread * (-1) ** index for index in range(24))
    processes, starts = tuple(index // 6 for index in range(24)), tuple(1.5 * index for index in range(24))
    series = Series(logs, processes, tuple(range(24)), "doctor", starts)
    return Sides(series, series, 0.004, slices=48)


SIDES = {"small": sides(0.1), "large": sides(0.05)}
HERE = DeviceFacts(facts={"accelerator": "Sparrow 7", "driver": None})


class Fake(Worker):
    """A worker whose answers are written down by phase: a result, an outcome, or a function of the job."""

    def __init__(self, **answers: Any) -> None:
        super().__init__(threads=1)
        self.jobs: list[tuple[str, Any]] = []
        self.answers = {
            "device": HERE,
            "peak": {"matmul": 90e9, "convolution": 14e9},
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
    monkeypatch.setattr(detection, "measure", lambda *_: (SIDES, {}))


def examined(name: str = "cpu", **answers: Any) -> Report:
    return examine(Fake(**answers), Device.of(name), lambda text: None)


def lines(report: Report, title: str) -> dict[str, Line]:
    (section,) = (section for section in report.sections if section.title == title)
    return {line.name: line for line in section.lines}


def test_a_box_that_can_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(device: Device, servers: Any, processes: int, progress: Any) -> Any:
        asked.append((device.name, processes))
        progress("timing")
        with servers(0) as server:
            assert isinstance(server, Worker)
        return SIDES, {}

    monkeypatch.setattr(detection, "measure", measure)
    worker, seen = Fake(), []
    report = examine(worker, Device.of("cpu"), seen.append, 7)
    assert report.fit
    small = report.facts["differences"]["small"]["smallest_difference"]
    shown = ", ".join(f"{detection.percent(small[minutes])} ({minutes} minutes)" for minutes in ("5", "15", "60"))
    assert report.summary == f"This box can measure on cpu: in a run of two cells, differences show from {shown}."
    assert report.facts["peak"] == {name: {"matmul": 90e9, "convolution": 14e9} for name in ("fp32", "bf16")}
    assert [phase for phase, _ in worker.jobs] == ["device", "peak", "peak"]
    assert asked == [("cpu", 7)]
    assert seen == ["waiting for cpu", "timing"]


def test_what_people_read() -> None:
    report = examined()
    assert lines(report, "device cpu")["accelerator"] == Line("accelerator", "Sparrow 7")
    assert "driver" not in lines(report, "device cpu"), "what is unknown is left out"
    assert lines(report, "device cpu")["clock against another"] == Line("clock against another", "1.0000")
    assert lines(report, "arithmetic peak, measured")["bf16"].value == "matmul 90 GFLOP/s, convolution 14 GFLOP/s"
    assert lines(report, "the same network against itself")["small"].value == "resnet9, inference of one image: 4 ms"
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


def test_a_box_whose_network_differs_too_much_from_itself_is_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "measure", lambda *_: ({**SIDES, "large": sides(3.0)}, {}))
    report = examined()
    assert not report.fit
    assert "This box cannot measure on cpu: the same network differs so much from itself" in report.summary


def test_a_network_that_could_not_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"large": "slice train_throughput took longer than 60 s"}
    monkeypatch.setattr(detection, "measure", lambda *_: ({"small": SIDES["small"]}, failed))
    report = examined()
    assert not report.fit
    said = "the large network: slice train_throughput took longer than 60 s"
    assert report.summary == f"This box cannot measure on cpu: {said}."
    assert list(report.facts["differences"]) == ["small"]


def test_json_is_one_object_without_what_json_has_not() -> None:
    found = json.loads(to_json([examined(), examined("mps", device=DeviceFacts("no"))], []))
    assert found["fit"] is False
    assert [(device["device"], device["fit"]) for device in found["devices"]] == [("cpu", True), ("mps", False)]
    assert found["devices"][0]["facts"]["clock"] == 1.00002
    assert found["devices"][0]["facts"]["conditions"]["after"]["load"] == 0.5
    assert found["devices"][0]["facts"]["differences"]["small"]["seconds"] == 0.004
    assert found["equipment"] == []
