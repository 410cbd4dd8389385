"""Which processes are ours, and what CPU time the others used. No torch."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import psutil

_KERNEL_THREADS = 2  # the parent of the kernel's own threads on Linux, unless a container numbers processes itself


class Process(NamedTuple):
    """A process at one moment.

    Attributes:
        parent: process id of it.
        started: seconds since 1970.
        seconds: CPU time since it began.
        ended: CPU time of those of its children that have ended and been waited for, and of theirs.
    """

    parent: int
    started: float
    seconds: float
    ended: float


def list_processes() -> dict[int, Process]:
    """All processes that can be seen, by process id; without the kernel's threads, which work for all and so for us."""
    found = {}
    for process in psutil.process_iter(["ppid", "create_time", "cpu_times"]):
        facts, times = process.info, process.info["cpu_times"]
        if times is not None and facts["create_time"] is not None:
            ended = times.children_user + times.children_system
            found[process.pid] = Process(facts["ppid"] or 0, facts["create_time"], times.user + times.system, ended)
    if psutil.LINUX and _name(_KERNEL_THREADS) == "kthreadd":
        found.pop(_KERNEL_THREADS, None)
        return {pid: process for pid, process in found.items() if process.parent != _KERNEL_THREADS}
    return found


def family(processes: Mapping[int, Process], pid: int) -> set[int]:
    """Process ids of a process, of those that wait for it above, and of all below it."""
    return _ancestors(processes, pid) | _descendants(processes, pid)


def used_by_others(before: Mapping[int, Process], after: Mapping[int, Process], pid: int) -> dict[int, float]:
    """CPU seconds that other processes used between two listings.

    What has ended in between is found in its parent's count of ended children, and so under its parent's name. That
    holds for the other children of our ancestors too: those that lead to us are alive.

    Args:
        before: the earlier listing.
        after: the later one.
        pid: whose family is not counted.

    Returns:
        Seconds by process id, without zeros.
    """
    ours, ancestors = _descendants(before, pid) | _descendants(after, pid), _ancestors(after, pid)
    # An ended child brings its parent all that it ever used; what it had used at the first listing is taken off.
    old = dict.fromkeys(after, 0.0)
    for ended in (each for each in before if not _lives(before[each], after.get(each))):
        heir = before[ended].parent
        while heir in before and not _lives(before[heir], after.get(heir)):
            heir = before[heir].parent
        old[heir] = old.get(heir, 0.0) + before[ended].seconds + before[ended].ended
    used = {}
    for other in after.keys() - ours:
        now, then = after[other], before.get(other)
        if then is None or not _lives(then, now):
            then = Process(now.parent, now.started, 0.0, 0.0)
        own = 0.0 if other in ancestors else max(0.0, now.seconds - then.seconds)
        used[other] = own + max(0.0, now.ended - then.ended - old[other])
    return {other: seconds for other, seconds in used.items() if seconds > 0}


def describe(pid: int) -> str:
    """Name and id of a process, such as `pytest (pid 12)`; its id alone if it has ended or is hidden."""
    name = _name(pid)
    return f"{name} (pid {pid})" if name else f"pid {pid}"


def exists(pid: int) -> bool:
    """Whether there is such a process, be it hidden from us or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _name(pid: int) -> str | None:
    try:
        return psutil.Process(pid).name()
    except (psutil.Error, OSError):
        return None


def _lives(process: Process, later: Process | None) -> bool:
    """Whether a later process of the same id is the same one: ids are given again, but not within a second."""
    return later is not None and abs(process.started - later.started) < 1


def _ancestors(processes: Mapping[int, Process], pid: int) -> set[int]:
    found: set[int] = set()
    while pid in processes and (pid := processes[pid].parent) not in found:
        found.add(pid)
    return found


def _descendants(processes: Mapping[int, Process], pid: int) -> set[int]:
    """The process itself, its children, theirs, and so on."""
    found, grown = {pid}, True
    while grown:
        children = {child for child, process in processes.items() if process.parent in found}
        grown = not children <= found
        found |= children
    return found
