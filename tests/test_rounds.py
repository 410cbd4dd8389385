"""Rounds of slices, with processes and a clock of the tests' own."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
from msgspec import structs

from fashiontl.core.case import Case, Settings
from fashiontl.core.slices import Prior, interval_of, prior_of, series_of
from fashiontl.machine.disturbance import SliceConditions, Usage
from fashiontl.runner import rounds as rounds_module
from fashiontl.runner.client import Outcome
from fashiontl.runner.live import EndedError
from fashiontl.runner.messages import REFERENCE, CaseJob, PhaseResult, SlicesJob
from fashiontl.runner.rounds import Journal, Rounds, Taken
from fashiontl.runner.subjects import INFERENCE, TRAINING, Subject

SETTINGS = Settings("smoke", processes=2, budget=0.0, half_width=0.05, spacing=0.0, timeout=90.0)
PARTS = {"data": [0.125], "forward": [0.25], "backward": [0.5], "optimizer": [0.0625]}


def subject(name: str, metrics: tuple[str, ...] = INFERENCE, cells: tuple[str, ...] = ()) -> Subject:
    return Subject(f"{name}: {metrics[0]}", Case(name, "full", weights="none"), metrics, cells or (f"{name}-cell",))


A, B, STEP = subject("a"), subject("b"), subject("a", TRAINING)
LATENCY = subject("c", ("latency",))
OTHERS = "other processes used the cores"


class Machine:
    """A clock, and processes that answer by it.

    `seconds` says what a call takes, `ends` how commands end, `conditions` what is read of the machine in a round.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self.said: list[tuple[str, str]] = []
        self.alive: list[str] = []
        self.most = 0
        self.closed: list[tuple[str, bool]] = []
        self.servers: list[int] = []
        self.ends: Callable[[str, str, int], Outcome[Any] | BaseException | None] = lambda *_: None
        self.seconds: Callable[[str, int], list[float]] = lambda metric, index: [0.25]
        self.cost: Callable[[str, str], float] = lambda command, metric: 0.5
        self.device: list[float] = []
        self.references: list[float] = []
        self.conditions: Callable[[int], dict[str, float]] = lambda number: {}
        self.taken = 0

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    @contextmanager
    def server(self, number: int) -> Iterator[Any]:
        assert not self.alive, "one server at a time has processes"
        self.servers.append(number)
        yield f"server {number}"
        assert not self.alive

    def rounds(self, folder: Path, settings: Settings = SETTINGS, seed: int | None = 0) -> Rounds:
        job = CaseJob(A.case, settings, "cache", ("mine",))
        journal = Journal(folder / "journal" / "run.jsonl", settings)
        return Rounds(
            settings, job, self.server, journal, "run cpu", clock=lambda: self.now, sleep=self.sleep, seed=seed
        )


class Live:
    """In place of `LiveProcess`; answers at once."""

    box: Machine

    def __init__(self, worker: str, job: SlicesJob, folder: Path, timeout: float) -> None:
        assert worker == f"server {self.box.servers[-1]}"
        assert folder.is_dir()
        assert (job.settings.timeout, job.cache, job.extensions) == (timeout, "cache", ("mine",))
        self._name = job.case.architecture
        self._is_open, self._is_warm = True, False
        self._warmed: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.close(wait=kind is None)

    def close(self, *, wait: bool = True) -> None:
        if self._is_open:
            self._is_open = False
            # That of the reference mix is never warmed up.
            if self._is_warm:
                self.box.alive.remove(self._name)
                self.box.closed.append((self._name, wait))

    def _ask(self, command: str, metric: str) -> None:
        assert self._is_open
        self.box.now += self.box.cost(command, metric)
        self.box.said.append((command, f"{self._name} {metric}"))
        end = self.box.ends(self._name, f"{command} {metric}", len(self.box.alive))
        if isinstance(end, BaseException):
            raise end
        if end is not None:
            raise EndedError(end)

    def warm(self, metric: str) -> dict[str, Any]:
        if not self._is_warm:
            self._is_warm = True
            self.box.alive.append(self._name)
            self.box.most = max(self.box.most, len(self.box.alive))
        self._ask("warm", metric)
        self._warmed.add(metric)
        return {"calls": 7, "steady": True, "drift": 0.0, "noise": 0.0}

    def slice(self, metric: str) -> dict[str, Any]:
        if metric == REFERENCE:
            self.box.references.append(self.box.now)
            return {"seconds": {"arithmetic": 0.01}}
        assert metric in self._warmed
        self._ask("slice", metric)
        index = sum(each == ("slice", f"{self._name} {metric}") for each in self.box.said) - 1
        return {
            "seconds": 1.0,
            "values": self.box.seconds(metric, index),
            "device": self.box.device,
            "parts": PARTS if metric == "end_to_end_throughput" else {},
            "usage": {"seconds": 0.5, "cpu_seconds": 0.25, "waited_seconds": 0.0, "switches": 3, "faults": 0},
            "throttled": False,
        }


class Watching:
    """In place of `Watch`; reads what `Machine.conditions` says of a slice by its number."""

    box: Machine
    cores = 2

    def __init__(self, device: object) -> None:
        self._device, self._start = device, 0.0

    def begin(self) -> None:
        self._start = self.box.now

    def end(self, usage: Usage) -> SliceConditions:
        self.box.taken += 1
        cores = usage.cpu_seconds / usage.seconds
        return SliceConditions(
            self._start, usage.seconds, cores, switches=usage.switches, **self.box.conditions(self.box.taken - 1)
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    class Own(Live):
        box = Machine()

    class Eyes(Watching):
        box = Own.box

    monkeypatch.setattr(rounds_module, "LiveProcess", Own)
    monkeypatch.setattr(rounds_module, "Watch", Eyes)
    return Own.box


def slices(rounds: Rounds, of: Subject, metric: str = "latency") -> list[Taken]:
    return rounds.timings[of.key, metric].slices


def test_each_metric_of_each_subject_has_its_turn_once_a_round_in_an_order_of_chance(
    tmp_path: Path, machine: Machine
) -> None:
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=1))
    rounds.measure([A, B, STEP])
    every = {f"a {metric}" for metric in INFERENCE + TRAINING} | {f"b {metric}" for metric in INFERENCE}
    assert {name for command, name in machine.said if command == "warm"} == every
    assert machine.most == 3, "all are alive at once"
    turns = [name for command, name in machine.said if command == "slice"]
    assert len(turns) == 2 * 6 + 2 * 5
    of_rounds = [turns[:6], turns[6:12], turns[12:17], turns[17:]]
    assert all(set(each) == every for each in of_rounds[:2])
    assert all(set(each) == every - {"a end_to_end_throughput"} for each in of_rounds[2:])
    assert len(set(map(tuple, of_rounds))) == 4
    for (key, metric), timing in rounds.timings.items():
        # Half of what others have says enough of a metric that differs by little from another.
        count = 2 if metric == "end_to_end_throughput" else 4
        assert [each.round for each in timing.slices] == list(range(count)), key
        assert {each.process for each in timing.slices} == {0}
        assert timing.warm_ups == [{"calls": 7, "steady": True, "drift": 0.0, "noise": 0.0}]
        assert (timing.seconds, timing.warming) == (0.5 * count, 0.5)
    assert machine.closed == [(name, True) for name in ("a", "b", "a")]


def test_each_process_is_of_a_server_of_its_own_and_rounds_are_counted_over_all(
    tmp_path: Path, machine: Machine
) -> None:
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=3))
    rounds.measure([A, B])
    assert machine.servers == [0, 1, 2]
    for of in (A, B):
        taken = slices(rounds, of)
        assert sorted({each.process for each in taken}) == [0, 1, 2]
        numbers = [each.round for each in taken]
        assert numbers == sorted(set(numbers)), "each round once, in the order of time"
        assert all(each.started >= before.started for before, each in pairwise(taken))


def test_from_one_round_to_the_next_there_is_a_time(tmp_path: Path, machine: Machine) -> None:
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=1, spacing=1.5))
    rounds.measure([A])
    starts = sorted({each.round: each.started for metric in INFERENCE for each in slices(rounds, A, metric)}.items())
    # Two slices of half a second each.
    assert machine.sleeps == [0.5] * 4
    assert len(starts) == 4
    machine.sleeps.clear()
    machine.rounds(tmp_path / "b", replace(SETTINGS, processes=1, spacing=0.25)).measure([A])
    assert machine.sleeps == [0.0] * 4, "a round that took longer is followed at once"


def test_what_is_precise_has_the_fewest_processes(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = lambda metric, index: [0.25 * (1.001 if index % 2 else 1.0)]
    machine.rounds(tmp_path, replace(SETTINGS, processes=3, budget=1e6)).measure([A])
    assert machine.servers == [0, 1, 2]


def wild(metric: str, index: int) -> list[float]:
    """Of latency each slice takes twice or half as long as the one before, but more and more do alike."""
    return [0.25 * (2.0 ** math.sin(index * index) if metric == "latency" else 1.0)]


def test_only_what_is_not_precise_goes_on_until_its_budget_is_spent(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = wild
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=2, budget=20.0, half_width=1e-3))
    rounds.measure([A])
    wide, narrow = (rounds.timings[A.key, metric] for metric in INFERENCE)
    # Processes do not differ by more than their slices make them, so that the last goes on: no other has to warm up.
    assert wide.processes == narrow.processes == {0, 1}
    assert Counter(each.process for each in narrow.slices) == {0: 8, 1: 8}
    # Another slice would be too much; one takes half a second, as a warm-up does, which counts too.
    assert wide.spent == 0.5 * (len(wide.slices) + len(wide.warm_ups))
    assert 20.0 - 0.5 <= wide.spent <= 20.0
    warmed = Counter(name for command, name in machine.said if command == "warm")
    assert warmed == {"a latency": 2, "a inference_throughput": 2}


def test_where_processes_differ_others_follow_which_warm_up_only_what_they_take(
    tmp_path: Path, machine: Machine
) -> None:
    def seconds(metric: str, index: int) -> list[float]:
        """Of latency each process takes longer than the one before; its slices vary by a tenth."""
        level = 1.5 ** len(machine.servers) if metric == "latency" else 1.0
        return [0.25 * level * (1.1 if index % 2 else 1.0)]

    machine.seconds = seconds
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=2, budget=20.0, half_width=0.07))
    rounds.measure([A])
    wide, narrow = (rounds.timings[A.key, metric] for metric in INFERENCE)
    assert narrow.processes == {0, 1}
    assert len(wide.processes) > 6
    # Once two have shown how much they differ, slices say little.
    assert all(sum(each.process == process for each in wide.slices) == 2 for process in sorted(wide.processes)[2:])
    # A process with one slice would be too much.
    assert 20.0 - 1.0 < wide.spent <= 20.0 + 0.5
    warmed = Counter(name for command, name in machine.said if command == "warm")
    assert warmed == {"a latency": len(wide.processes), "a inference_throughput": 2}


@pytest.mark.parametrize("budget", [17.0, 18.5, 22.0])
def test_a_process_that_goes_on_takes_only_what_it_warmed_up(tmp_path: Path, machine: Machine, budget: float) -> None:
    """Another process of throughput would be too much, another slice of it would not."""
    machine.cost = lambda command, metric: 3.0 if (command, metric) == ("warm", "inference_throughput") else 0.5
    machine.seconds = lambda metric, index: [0.25 * 1.5 ** len(machine.servers) * (1.1 if index % 2 else 1.0)]
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=2, budget=budget, half_width=1e-3))
    rounds.measure([A])
    latency, throughput = (rounds.timings[A.key, metric] for metric in INFERENCE)
    assert budget - 3.5 < throughput.spent <= budget
    assert len(latency.processes) > len(throughput.processes)
    assert len(throughput.warm_ups) == len(throughput.processes)


def test_without_a_budget_there_are_the_fewest_processes(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = wild
    machine.rounds(tmp_path, replace(SETTINGS, half_width=1e-3)).measure([A])
    assert machine.servers == [0, 1]


def test_what_is_out_of_memory_beside_others_is_timed_alone(tmp_path: Path, machine: Machine) -> None:
    machine.ends = lambda name, command, alive: Outcome("oom", "too large") if name == "b" and alive > 1 else None
    rounds = machine.rounds(tmp_path)
    rounds.measure([A, B])
    assert rounds.failures == {}
    assert {each.process for each in slices(rounds, A)} == {each.process for each in slices(rounds, B)} == {0, 1}


@pytest.mark.parametrize("command", ["warm latency", "slice inference_throughput"])
def test_what_is_out_of_memory_alone_is_a_failure(tmp_path: Path, machine: Machine, command: str) -> None:
    def ends(name: str, told: str, _: int) -> Outcome[Any] | None:
        return Outcome("oom", "too large") if (name, told) == ("b", command) else None

    machine.ends = ends
    rounds = machine.rounds(tmp_path)
    rounds.measure([A, B])
    assert rounds.failures == {B.key: Outcome("oom", "too large")}
    assert machine.said.count(("warm", "b latency")) == 2, "beside another, then alone, and never again"
    assert rounds.failure("a-cell", [A, B]) is None
    assert rounds.failure("b-cell", [A, B]) == Outcome("oom", "too large")
    assert {each.process for each in slices(rounds, A)} == {0, 1}


@pytest.mark.parametrize("status", ["timeout", "crashed"])
def test_what_ends_otherwise_fails_and_its_slices_stay(tmp_path: Path, machine: Machine, status: Any) -> None:
    def ends(name: str, told: str, _: int) -> Outcome[Any] | None:
        is_third = machine.said.count(("slice", "b latency")) == 3
        return Outcome(status, f"{told} failed") if name == "b" and is_third else None

    machine.ends = ends
    rounds = machine.rounds(tmp_path)
    rounds.measure([B, A])
    assert rounds.failures == {B.key: Outcome(status, "slice latency failed")}
    assert len(slices(rounds, B)) == 2
    assert machine.closed[0] == ("b", False), "nobody waits for it"
    result = PhaseResult()
    rounds.add_to(result, "b-cell", [A, B], 8)
    assert result.values("latency") == (0.25, 0.25)


def test_a_process_that_hangs_as_it_warms_up_is_not_waited_for(tmp_path: Path, machine: Machine) -> None:
    machine.ends = lambda name, told, alive: Outcome("timeout", "too long") if told.startswith("warm") else None
    rounds = machine.rounds(tmp_path)
    rounds.measure([A])
    assert machine.closed == [("a", False)]
    assert machine.sleeps == [], "where nothing is left there are no rounds"


def test_processes_that_there_is_no_memory_for_come_after_the_others(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_module, "_has_memory", lambda: False)
    rounds = machine.rounds(tmp_path)
    rounds.measure([A, B, STEP])
    assert machine.most == 1
    assert machine.servers == [0, 1]
    assert {key for key, timing in rounds.timings.items() if timing.processes == {0, 1}} == {
        (each.key, metric) for each in (A, B, STEP) for metric in each.metrics
    }


def test_an_interrupt_ends_all_processes(tmp_path: Path, machine: Machine) -> None:
    def ends(*_: object) -> BaseException | None:
        return KeyboardInterrupt() if len(machine.said) == 8 else None

    machine.ends = ends
    rounds = machine.rounds(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        rounds.measure([A, B])
    assert machine.alive == []
    assert sorted(machine.closed) == [("a", False), ("b", False)]


def test_each_slice_is_in_the_journal_as_it_is_taken(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "journal" / "run.jsonl"
    counts: list[tuple[int, int]] = []

    def ends(_: str, told: str, *__: object) -> None:
        taken = sum(command == "slice" for command, _ in machine.said) - told.startswith("slice")
        # The first line are the settings.
        counts.append((taken, len(path.read_bytes().splitlines()) - 1 if path.exists() else 0))

    machine.ends = ends
    rounds = machine.rounds(tmp_path)
    rounds.measure([A, STEP])
    assert len(counts) > 8
    assert all(taken == written for taken, written in counts)
    every = [each for timing in rounds.timings.values() for each in timing.slices]
    assert sorted(Journal(path, SETTINGS).read(), key=repr) == sorted(every, key=repr)
    Journal(path, SETTINGS).forget()
    assert Journal(path, SETTINGS).read() == []
    Journal(path, SETTINGS).forget()


def test_what_a_journal_has_is_not_timed_again(tmp_path: Path, machine: Machine) -> None:
    done = machine.rounds(tmp_path)
    done.measure([A])
    said = len(machine.said)
    again = machine.rounds(tmp_path)
    again.measure([A])
    assert len(machine.said) == said
    assert slices(again, A) == slices(done, A)
    again.measure([A, B])
    assert min(each.process for each in slices(again, B)) == 2, "a process of its own"
    assert min(each.round for each in slices(again, B)) > max(each.round for each in slices(again, A))
    assert 0 not in machine.servers[2:]


def test_a_line_that_was_cut_off_is_no_slice_and_spoils_none(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal = Journal(path, SETTINGS)
    taken = Taken("a", "latency", 0, 0, 1000.0, (0.25,), conditions=SliceConditions(1000.0, 0.5, 2.0))
    journal.write(taken)
    journal.write(structs.replace(taken, round=1))
    path.write_bytes(path.read_bytes()[:-20])
    assert journal.read() == [taken]
    journal.write(structs.replace(taken, round=2))
    assert [each.round for each in journal.read()] == [0, 2]


def test_what_a_record_is_given(tmp_path: Path, machine: Machine) -> None:
    machine.device = [0.125, 0.0625]
    machine.seconds = lambda metric, index: [0.25, 0.5] if metric == "latency" else [2.0]
    shared = replace(A, cells=("one", "two"))
    rounds = machine.rounds(tmp_path)
    rounds.measure([shared, STEP, B])
    result = PhaseResult()
    rounds.add_to(result, "one", [shared, STEP, B], 8)
    assert [each.metric for each in result.measurements] == ["latency", "device_latency", "inference_throughput"]
    latency, device, throughput = result.measurements
    count = len(slices(rounds, shared))
    assert latency.values == (0.25, 0.5) * count
    assert device.values == (0.125, 0.0625) * count
    assert throughput.values == (4.0,) * count
    assert latency.slices is not None
    assert throughput.slices is not None
    assert (latency.slices.counts, throughput.slices.counts) == ((2,) * count, (1,) * count)
    assert latency.slices.group == "run cpu"
    assert latency.slices.processes == tuple(each.process for each in slices(rounds, shared))
    assert latency.slices.rounds == tuple(each.round for each in slices(rounds, shared))
    assert latency.slices.starts[0] >= 0
    assert latency.slices.shared == ("one", "two")
    conditions = {
        "seconds": (0.5,) * count, "cores": (0.5,) * count, "switches": (3,) * count, "faults": (0,) * count,
        "throttled": (0,) * count,
    }  # fmt: skip
    assert latency.slices.conditions == conditions
    assert latency.slices.disturbed == {}
    assert len(series_of(latency).logs) == count
    assert result.loops["timing"]["latency"] == {
        "warm_up": 14,
        "steady": True,
        "ended": "precise",
        "half_width": 0.0,
        "seconds": 0.5 * count,
        "warming": 1.0,
    }


def test_a_step_has_its_parts(tmp_path: Path, machine: Machine) -> None:
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=1))
    rounds.measure([STEP])
    result = PhaseResult()
    rounds.add_to(result, "a-cell", [STEP], 4)
    names = [*TRAINING, *(f"step_{part}_time" for part in PARTS)]
    assert [each.metric for each in result.measurements] == names
    assert result.values("train_throughput") == (16.0,) * 4
    assert result.values("end_to_end_throughput") == (16.0,) * 2
    for part, seconds in PARTS.items():
        assert result.values(f"step_{part}_time") == tuple(seconds) * 2
    assert all(each.slices is not None and each.slices.shared == () for each in result.measurements)
    # One process says nothing of the next.
    assert result.loops["timing"]["train_throughput"]["half_width"] is None
    assert result.loops["timing"]["train_throughput"]["ended"] == "budget"


def test_what_other_cells_suggest_of_the_spread_is_in_each_record(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = lambda metric, index: [(0.25 if index < 8 else 0.5) * (1.1 if index % 2 else 1.0)]
    rounds = machine.rounds(tmp_path)
    rounds.measure([A, B])
    result = PhaseResult()
    rounds.add_to(result, "a-cell", [A, B], 4)
    (latency,) = (each for each in result.measurements if each.metric == "latency")
    assert latency.slices is not None
    assert latency.slices.prior is not None
    # Of all metrics: how alike slices are depends on no unit.
    cells = [rounds.timings[each.key, metric].series() for each in (A, B) for metric in INFERENCE]
    assert {len(logs) for cell in cells for logs in cell.by_process().values()} == {8, 2}
    assert Prior(*latency.slices.prior) == prior_of(cells)
    ratio, freedom = latency.slices.prior
    # The means of processes are twice apart, and slices a tenth: far more than these would make of it.
    assert ratio > 100
    assert freedom == 4


def test_cells_share_the_time_of_what_they_share(tmp_path: Path, machine: Machine) -> None:
    shared, step = replace(A, cells=("one", "two")), replace(STEP, cells=("two",))
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=1))
    rounds.measure([shared, step])
    # Two metrics, each with a warm-up and four slices of half a second; of a step the second has two.
    assert rounds.seconds("one", [shared, step]) == 2.5
    assert rounds.seconds("two", [shared, step]) == 2.5 + 2.5 + 1.5
    assert rounds.seconds("nobody", [shared, step]) == 0


def test_the_reference_mix_is_timed_before_each_round_and_after_the_last(tmp_path: Path, machine: Machine) -> None:
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=1))
    rounds.measure([A, B])
    starts = {each.round: each.started for timing in rounds.timings.values() for each in reversed(timing.slices)}
    first = [
        min(t.started for timing in rounds.timings.values() for t in timing.slices if t.round == n) for n in starts
    ]
    assert sorted(first) == machine.references[:4]
    assert len(machine.references) == 5
    assert machine.references[4] == machine.now


def test_idle_time_of_a_round_counts_for_all_who_had_a_turn(tmp_path: Path, machine: Machine) -> None:
    rounds = machine.rounds(tmp_path, replace(SETTINGS, processes=1, spacing=3.0))
    rounds.measure([A, B])
    # Four slices of half a second leave a second of each of four rounds.
    assert machine.sleeps == [1.0] * 4
    assert {timing.seconds for timing in rounds.timings.values()} == {4 * (0.5 + 0.25)}


def busy(*numbers: int, cores: float = 1.0) -> Callable[[int], dict[str, float]]:
    """Others use cores during slices of these numbers."""
    return lambda number: {"others": cores if number in numbers else 0.0}


def test_slices_that_are_marked_as_disturbed_do_not_count(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = lambda metric, index: [4.0 if index in {1, 5} else 0.25]
    machine.conditions = busy(1, 5)
    rounds = machine.rounds(tmp_path)
    rounds.measure([LATENCY])
    timing = rounds.timings[LATENCY.key, "latency"]
    assert len(timing.slices) == 10
    assert timing.marks == ["", OTHERS, "", "", "", OTHERS, "", "", "", ""]
    assert [each.round for each in timing.sound] == [0, 2, 3, 4, 6, 7, 8, 9]
    assert timing.series().logs == pytest.approx([math.log(0.25)] * 8)
    result = PhaseResult()
    rounds.add_to(result, LATENCY.cells[0], [LATENCY], 8)
    (latency,) = result.measurements
    assert latency.slices is not None
    assert latency.slices.disturbed == {OTHERS: (1, 5)}
    assert latency.slices.conditions["others"] == (0, 1, 0, 0, 0, 1, 0, 0, 0, 0)
    assert len(latency.values) == 10, "the record keeps them"
    assert interval_of(latency).estimate == pytest.approx(0.25)
    assert f"latency: 2 of 10 slices: {OTHERS} (1.0 cores)" in result.warnings


def test_disturbed_slices_are_taken_again_while_the_budget_lasts(tmp_path: Path, machine: Machine) -> None:
    machine.conditions = busy(*range(4, 30))
    rounds = machine.rounds(tmp_path, replace(SETTINGS, budget=40.0))
    rounds.measure([LATENCY])
    timing = rounds.timings[LATENCY.key, "latency"]
    # What is not disturbed is of a single process, which says nothing of others, until a later one has some.
    assert len({each.process for each in timing.sound}) == 2
    assert timing.slices[-1].process > 0
    assert len(timing.sound) < len(timing.slices)


@pytest.mark.parametrize(("throttled", "status"), [(2, "valid"), (3, "invalid")])
def test_more_than_a_fifth_of_throttled_slices_is_no_fair_sample(
    tmp_path: Path, machine: Machine, throttled: int, status: str
) -> None:
    machine.conditions = lambda number: {"throttled": float(number < throttled)}
    rounds = machine.rounds(tmp_path)
    rounds.measure([LATENCY])
    assert len(slices(rounds, LATENCY)) == 10
    result = PhaseResult()
    rounds.add_to(result, LATENCY.cells[0], [LATENCY], 8)
    reason = "latency: 3 of 10 slices were taken while the machine was throttled; cool it, or raise its limit, and "
    assert result.invalid == ([f"{reason}measure again"] if status == "invalid" else [])


EIGHT = [subject(f"n{number}", ("latency",)) for number in range(8)]


def test_what_a_round_did_to_all_cells_is_taken_off_and_kept(tmp_path: Path, machine: Machine) -> None:
    slow = {1: 1.5, 3: 0.75, 4: 2.0}
    machine.seconds = lambda metric, index: [0.25 * slow.get(index, 1.0)]
    rounds = machine.rounds(tmp_path)
    rounds.measure(EIGHT)
    mean = sum(map(math.log, slow.values())) / 10
    for each in EIGHT:
        timing = rounds.timings[each.key, "latency"]
        assert timing.common == pytest.approx({n: math.log(slow.get(n, 1.0)) - mean for n in range(10)})
        assert timing.series().logs == pytest.approx([math.log(0.25) + mean] * 10)
        assert timing.every.logs[1] == pytest.approx(math.log(0.375))
    result = PhaseResult()
    rounds.add_to(result, "n0-cell", EIGHT, 8)
    (latency,) = result.measurements
    assert latency.slices is not None
    assert latency.slices.common == pytest.approx([math.log(slow.get(n, 1.0)) - mean for n in range(10)], rel=1e-5)
    assert latency.values[1] == 0.375, "as it was taken"
    found = interval_of(latency)
    assert found.estimate == pytest.approx(0.25 * math.exp(mean), rel=1e-5)
    assert found.high / found.low == pytest.approx(1, abs=1e-4)


def test_the_level_is_that_of_rounds_in_which_the_machine_was_itself(tmp_path: Path, machine: Machine) -> None:
    """Of ten rounds the second is twice as slow, since others used the cores in all its slices."""
    machine.seconds = lambda metric, index: [0.5 if index == 1 else 0.25]
    machine.conditions = busy(*range(8, 16))
    rounds = machine.rounds(tmp_path)
    rounds.measure(EIGHT)
    timing = rounds.timings[EIGHT[0].key, "latency"]
    assert timing.common == pytest.approx({n: math.log(2) * (n == 1) for n in range(10)}, abs=1e-9)
    assert timing.series().logs == pytest.approx([math.log(0.25)] * 9)


def test_common_effects_of_a_throughput_are_those_of_its_seconds(tmp_path: Path, machine: Machine) -> None:
    steps = [subject(f"n{number}", ("train_throughput",)) for number in range(8)]
    machine.seconds = lambda metric, index: [0.5 if index == 1 else 0.25]
    rounds = machine.rounds(tmp_path)
    rounds.measure(steps)
    result = PhaseResult()
    rounds.add_to(result, "n0-cell", steps, 8)
    (throughput,) = result.measurements
    assert throughput.slices is not None
    assert throughput.slices.common[1] == pytest.approx(-math.log(2) * 9 / 10, rel=1e-5)
    # The mean of ten, one of which is half as fast.
    assert interval_of(throughput).estimate == pytest.approx(32 * 2 ** (-1 / 10), rel=1e-5)


def test_few_slices_of_a_round_have_nothing_in_common(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = lambda metric, index: [0.5 if index == 1 else 0.25]
    rounds = machine.rounds(tmp_path)
    rounds.measure(EIGHT[:7])
    assert rounds.timings[EIGHT[0].key, "latency"].common == {}


def test_slices_of_a_journal_count_towards_the_budget_and_are_judged(tmp_path: Path, machine: Machine) -> None:
    machine.seconds = wild
    machine.conditions = busy(2)
    settings = replace(SETTINGS, budget=6.0, half_width=1e-3)
    machine.rounds(tmp_path, settings).measure([LATENCY])
    again = machine.rounds(tmp_path, settings)
    timing = again.timings[LATENCY.key, "latency"]
    # Two warm-ups are not in it.
    assert (len(timing.slices), timing.seconds) == (10, 5.0)
    assert timing.marks == ["", "", OTHERS] + [""] * 7
    again.measure([LATENCY])
    # Two processes are there; another would have to warm up, and its slices still have to be within the budget.
    assert timing.spent <= 6.0 + 0.5
    assert len(timing.slices) <= 12


def test_the_order_of_turns_is_told_and_repeats(tmp_path: Path, machine: Machine) -> None:
    def turns(name: str, seed: int | None) -> list[str]:
        machine.said.clear()
        machine.rounds(tmp_path / name, seed=seed).measure([A, B, STEP])
        return [name for command, name in machine.said if command == "slice"]

    first = turns("one", 3)
    assert turns("two", 3) == first
    assert turns("three", 4) != first
    rounds = machine.rounds(tmp_path / "drawn", seed=None)
    result = PhaseResult()
    rounds.add_to(result, "a-cell", [A], 8)
    assert result.provenance["order"] == rounds.seed
    assert machine.rounds(tmp_path / "again", seed=None).seed != rounds.seed


@pytest.mark.parametrize(("change", "text"), [(0.0, ""), (0.2, "slower"), (-0.2, "faster")])
def test_what_all_cells_become_meanwhile_is_told(tmp_path: Path, machine: Machine, change: float, text: str) -> None:
    machine.seconds = lambda metric, index: [0.25 * (1 + change * index / 10) * (1.001 if index % 2 else 1.0)]
    rounds = machine.rounds(tmp_path)
    rounds.measure([A, B])
    result = PhaseResult()
    rounds.add_to(result, "a-cell", [A, B], 8)
    told = [line for line in result.warnings if line.startswith("all cells became")]
    assert [line.split("%")[1] for line in told] == ([f" {text} while they were timed"] if text else [])
