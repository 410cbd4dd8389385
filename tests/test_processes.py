"""Whose CPU time it was, on made-up process trees, and on the real one."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiontl.machine import processes as module
from fashiontl.machine.processes import Process, describe, exists, family, list_processes, used_by_others

# init (1) - shell (10) - pytest (20) - server (30) - worker (40), and another's make (50) with two compilers.
TREE = {
    1: Process(0, 0.0, 5.0, 100.0),
    10: Process(1, 10.0, 1.0, 8.0),
    20: Process(10, 20.0, 3.0, 0.0),
    30: Process(20, 30.0, 2.0, 40.0),
    40: Process(30, 40.0, 6.0, 0.0),
    50: Process(1, 50.0, 1.0, 12.0),
    51: Process(50, 51.0, 4.0, 0.0),
    52: Process(50, 52.0, 2.0, 0.0),
}


def changed(**processes: Process | None) -> dict[int, Process]:
    later = {**TREE, **{int(name[1:]): process for name, process in processes.items()}}
    return {pid: process for pid, process in later.items() if process is not None}


def test_family() -> None:
    assert family(TREE, 20) == {0, 1, 10, 20, 30, 40}
    assert family(TREE, 99) == {99}


def test_our_own_work_is_not_others() -> None:
    after = changed(
        _1=Process(0, 0.0, 6.0, 100.0),
        _10=Process(1, 10.0, 2.0, 8.0),
        _20=Process(10, 20.0, 9.0, 0.0),
        _30=Process(20, 30.0, 3.0, 60.0),
        _40=None,
        _41=Process(30, 90.0, 7.0, 1.0),
    )
    assert used_by_others(TREE, after, 20) == {}


def test_a_running_process() -> None:
    after = changed(_51=Process(50, 51.0, 4.75, 0.0), _52=Process(50, 52.0, 2.5, 0.0))
    assert used_by_others(TREE, after, 20) == {51: 0.75, 52: 0.5}


def test_a_process_that_began_meanwhile() -> None:
    assert used_by_others(TREE, changed(_60=Process(1, 90.0, 0.5, 0.25)), 20) == {60: 0.75}


def test_what_ended_is_found_in_its_parent_without_what_it_used_before() -> None:
    """Compiler 51 used 1.5 s more and ended; a third came and went with 0.5 s in between."""
    after = changed(_50=Process(1, 50.0, 1.0, 12.0 + 5.5 + 0.5), _51=None)
    assert used_by_others(TREE, after, 20) == {50: 2.0}


def test_a_whole_tree_that_ended_is_found_in_init() -> None:
    ended = (1.0 + 12.0) + 4.0 + (2.0 + 0.25)
    after = changed(_1=Process(0, 0.0, 5.0, 100.0 + ended), _50=None, _51=None, _52=None)
    assert used_by_others(TREE, after, 20) == {1: 0.25}


def test_a_neighbour_below_our_own_shell() -> None:
    after = changed(_10=Process(1, 10.0, 1.0, 8.0 + 3.0))
    assert used_by_others(TREE, after, 20) == {10: 3.0}


def test_a_parent_that_does_not_wait_hides_nothing_of_its_own() -> None:
    after = changed(_50=Process(1, 50.0, 1.5, 12.0), _51=None)
    assert used_by_others(TREE, after, 20) == {50: 0.5}


def test_an_id_given_again_is_another_process() -> None:
    after = changed(_51=Process(1, 91.0, 0.25, 0.0), _50=Process(1, 50.0, 1.0, 12.0 + 4.0))
    assert used_by_others(TREE, after, 20) == {51: 0.25}


@given(
    st.lists(st.tuples(st.sampled_from([50, 51, 52]), st.integers(0, 64)), max_size=8),
    st.sets(st.sampled_from([51, 52])),
)
def test_nothing_that_make_and_its_compilers_use_is_lost(work: list[tuple[int, int]], ending: set[int]) -> None:
    after = dict(TREE)
    for pid, eighths in work:
        after[pid] = after[pid]._replace(seconds=after[pid].seconds + eighths / 8)
    for pid in ending:
        after[50] = after[50]._replace(ended=after[50].ended + after[pid].seconds + after[pid].ended)
        del after[pid]
    assert sum(used_by_others(TREE, after, 20).values()) == sum(eighths for _, eighths in work) / 8


def test_reads_this_machine() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found, me = list_processes(), os.getpid()
        assert found[child.pid].parent == me
        assert found[me].seconds > 0
        assert found[child.pid].started >= found[me].started > 0
        assert {me, child.pid, os.getppid()} <= family(found, me)
        assert describe(child.pid) == f"{psutil.Process(child.pid).name()} (pid {child.pid})"
        assert exists(child.pid)
    finally:
        child.communicate(b"\n")
    assert not exists(child.pid)
    assert describe(child.pid) == f"pid {child.pid}"


def test_a_hidden_process_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        assert (pid, signal) == (7, 0)
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert exists(7)


def test_kernel_threads_and_unreadable_processes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def running(pid: int, parent: int | None, *, readable: bool = True) -> SimpleNamespace:
        times = SimpleNamespace(user=1.0, system=2.0, children_user=4.0, children_system=8.0)
        info = {"ppid": parent, "create_time": 5.0, "cpu_times": times if readable else None}
        return SimpleNamespace(pid=pid, info=info)

    listed = [running(1, None), running(2, 0), running(3, 2), running(4, 1), running(5, 1, readable=False)]
    monkeypatch.setattr(psutil, "process_iter", lambda attrs: listed)
    monkeypatch.setattr(psutil, "LINUX", True)
    monkeypatch.setattr(module, "_name", {2: "kthreadd"}.get)
    assert list_processes() == {1: Process(0, 5.0, 3.0, 12.0), 4: Process(1, 5.0, 3.0, 12.0)}
    monkeypatch.setattr(module, "_name", {2: "bash"}.get)
    assert set(list_processes()) == {1, 2, 3, 4}
