import json
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from fashiontl.core.case import Case
from fashiontl.machine import devices
from fashiontl.runner.client import Outcome
from fashiontl.session import spreading

# Stands in for the worker in the inner run: three GPUs, one of which has less memory; jobs are noted in a file.
FAKE = """
import os
from pathlib import Path
from fashiontl.runner.client import Outcome, Worker

MEMORY = {"cuda": 80, "cuda:1": 40, "cuda:2": 80}
ANSWERS = {
    "peak": {"matmul": 2e9}, "inference": {"latency": [0.5] * 5}, "step": {},
}

def run(self, phase, job, timeout, progress=print):
    device = job["device"] if "device" in job else job["case"]["device"]
    with Path(__file__).with_name("jobs.txt").open("a") as file:
        file.write(f"{os.environ.get('PYTEST_XDIST_WORKER', 'controller')} {phase} {device}\\n")
    if phase != "device":
        return Outcome("ok", "", ANSWERS[phase])
    absence = None if device in MEMORY else "no such GPU"
    facts = {"accelerator": "Abacus 3000"}
    return Outcome("ok", "", {"absence": absence, "facts": facts, "total_memory": MEMORY.get(device)})

Worker.run = run
"""
POLICIES = ("full", "scratch", "bn_only")
SPEED = ("--weights=none", "--set=accuracy=false", "--set=profile=false")


@pytest.fixture
def bench(matrix: Callable[[str], pytest.Pytester]) -> pytest.Pytester:
    return matrix(FAKE)


def records(bench: pytest.Pytester) -> list[dict[str, Any]]:
    [path] = (bench.path / "results" / "runs").rglob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def jobs(bench: pytest.Pytester) -> dict[str, list[tuple[str, str]]]:
    """Phases and their devices, by the process that asked."""
    found = defaultdict(list)
    for line in (bench.path / "jobs.txt").read_text().splitlines():
        process, phase, device = line.split()
        found[process].append((phase, device))
    return found


def test_one_matrix_is_spread_over_the_gpus_that_are_equal(bench: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    architectures = ("resnet18", "mobilenet_v2", "vgg11")
    axes = (f"--arch={','.join(architectures)}", f"--policy={','.join(POLICIES)}", "--device=cuda")
    result = bench.runpytest_subprocess("--spread", "-n3", *axes, *SPEED)
    result.stdout.fnmatch_lines(["fashiontl: spread over cuda, cuda:2"])
    result.assert_outcomes(passed=9)
    found = records(bench)
    ids = {Case(name, policy, "cuda", weights="none").id for name in architectures for policy in POLICIES}
    assert {record["id"] for record in found} == ids
    assert {record["case"]["device"] for record in found} == {"cuda"}
    assert len({record["machine"] for record in found}) == 1
    places = defaultdict(set)
    for record in found:
        places[record["case"]["architecture"]].add(record["provenance"].get("placed", "cuda"))
    # The third process has no GPU of its own and takes turns with the first.
    assert sorted(map(sorted, places.values())) == [["cuda"], ["cuda"], ["cuda:2"]]
    asked = jobs(bench)
    assert asked.pop("controller") == [("device", "cuda"), ("device", "cuda:1"), ("device", "cuda:2")]
    where = {process: {device for _, device in done} for process, done in asked.items()}
    assert where == {"gw0": {"cuda"}, "gw1": {"cuda:2"}, "gw2": {"cuda"}}


def test_without_it_each_process_measures_on_the_device_that_is_named(bench: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = bench.runpytest_subprocess("--device=cuda", "-n2", "--arch=resnet18,vgg11", "--policy=scratch", *SPEED)
    result.assert_outcomes(passed=2)
    asked = jobs(bench)
    assert "controller" not in asked
    assert {device for done in asked.values() for _, device in done} == {"cuda"}
    assert all("placed" not in record["provenance"] for record in records(bench))


def test_collecting_asks_no_gpu(bench: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = bench.runpytest_subprocess("--device=cuda", "--spread", "-n2", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["test_matrix.py::test_cell?vgg11-scratch-cuda?"])
    assert not (bench.path / "jobs.txt").exists()


def test_a_worker_that_cannot_ask_ends_the_session(matrix: Callable[[str], pytest.Pytester]) -> None:
    pytest.importorskip("xdist")
    failing = """
from fashiontl.core.errors import FashiontlError

def run(*arguments, **named):
    raise FashiontlError("the worker process cannot start: gone")

Worker.run = run
"""
    bench = matrix(FAKE + failing)
    for header in ([], ["--no-header"]):
        result = bench.runpytest_subprocess("--device=cuda", "--spread", "-n2", *header)
        assert result.ret == 2
        assert "the worker process cannot start: gone" in result.stdout.str() + result.stderr.str()
        assert "Traceback" not in result.stdout.str() + result.stderr.str()


N = "--spread: expected pytest-xdist's -n of 2 or more, got {}; give it the number of GPUs"
DEVICE = (
    "--spread: expected one --device, cuda or xpu, without an index, got {}; "
    "name the kind of GPU that shares the cases with its equals"
)
GATE = "--spread: expected no --gate, got both; the gate compares in one process, leave one of them out"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--device=cuda"], [N.format("none")]),
        (["--device=cuda", "-n1"], [N.format("-n 1")]),
        (["--device=cuda", "-n0"], [N.format("-n 0")]),
        (["--device=cuda", "-p", "no:xdist"], [N.format("none")]),
        (["-n2"], [DEVICE.format("none")]),
        (["-n2", "--device=cpu"], [DEVICE.format("cpu")]),
        (["-n2", "--device=mps"], [DEVICE.format("mps")]),
        (["-n2", "--device=cuda:1"], [DEVICE.format("cuda:1")]),
        (["-n2", "--device=cuda, xpu"], [DEVICE.format("cuda,xpu")]),
        (["-n2", "--device=cuda", "--gate=main"], [GATE]),
        (["--device=cpu", "--gate=main"], [N.format("none"), DEVICE.format("cpu"), GATE]),
        (["--arch=resnet81", "--device=cpu", "-n2"], ["unknown architecture 'resnet81'", DEVICE.format("cpu")]),
    ],
)
def test_wrong_uses_are_told_all_at_once_before_anything_is_measured(
    bench: pytest.Pytester, arguments: list[str], messages: list[str]
) -> None:
    pytest.importorskip("xdist")
    result = bench.runpytest_subprocess("--spread", *arguments)
    assert result.ret == 2
    told = [line for line in result.stderr.lines if re.match("--spread|unknown", line)]
    assert len(told) == len(messages)
    assert all(line.startswith(message) for line, message in zip(told, messages, strict=True))
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    assert not (bench.path / "jobs.txt").exists()


def answering(gpus: dict[str, Outcome], asked: list[str]) -> Callable[[str], Outcome]:
    def ask(name: str) -> Outcome:
        asked.append(name)
        return gpus.get(name, Outcome("skipped", "no such GPU", {}))

    return ask


def gpu(name: str = "Abacus", memory: int = 80) -> Outcome:
    return Outcome("ok", "", {"facts": {"accelerator": name}, "total_memory": memory})


BROKEN = Outcome("crashed", "it fell off the bus", {})


@pytest.mark.parametrize(
    ("gpus", "equal", "count"),
    [
        ([gpu(), gpu(), gpu()], ["cuda", "cuda:1", "cuda:2"], 4),
        ([gpu(), gpu("Slide rule"), gpu(), gpu(memory=40)], ["cuda", "cuda:2"], 4),
        ([gpu(), BROKEN, gpu()], ["cuda", "cuda:2"], 4),
        ([gpu()], ["cuda"], 2),
        ([BROKEN, gpu()], ["cuda"], 1),
        ([], ["cuda"], 1),
    ],
)
@pytest.mark.parametrize(("seen", "processes"), [(4, 2), (1, 4)])
def test_equal_devices(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Outcome], equal: list[str], count: int, seen: int, processes: int
) -> None:
    monkeypatch.setattr(devices.Cuda, "seen", lambda: seen)
    asked: list[str] = []
    named = {"cuda" if index == 0 else f"cuda:{index}": found for index, found in enumerate(gpus)}
    assert spreading.equal_devices(answering(named, asked), "cuda", processes) == equal
    assert asked == ["cuda", "cuda:1", "cuda:2", "cuda:3"][:count]


def test_processes_take_turns_where_they_are_more() -> None:
    places = [spreading.placed(["cuda", "cuda:1", "cuda:3"], f"gw{number}")["cuda"] for number in (0, 1, 2, 3, 11)]
    assert places == ["cuda", "cuda:1", "cuda:3", "cuda", "cuda:3"]


def test_cases_of_one_architecture_stay_together() -> None:
    cases = [Case("vgg11", "full", "cuda"), Case("vgg11", "scratch", "cuda"), Case("resnet18", "full", "cuda")]
    assert list(spreading.scopes(cases).values()) == ["cuda vgg11", "cuda vgg11", "cuda resnet18"]
