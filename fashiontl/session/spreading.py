"""`pytest bench/ --device cuda --spread -n 4`: one matrix over all GPUs that are equal, a process each. No torch."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fashiontl.core.case import Case
from fashiontl.machine.devices import DEVICES
from fashiontl.runner.client import Outcome

if TYPE_CHECKING:
    import pytest

# Of the others a machine has one.
_KINDS = tuple(name for name, device in DEVICES.items() if device.is_countable)


def add_option(group: Any) -> None:
    """Declare the option."""
    group.addoption(
        "--spread",
        action="store_true",
        help="spread the cases of --device cuda over all GPUs that are equal, one process of pytest-xdist's -n a GPU",
    )


def faults(config: "pytest.Config", option: Namespace) -> list[str]:
    """What is wrong with the options of a session whose cases shall be spread; nothing when they shall not."""
    # Their controller has checked for the processes of pytest-xdist, whose own -n is none.
    if not option.spread or hasattr(config, "workerinput"):
        return []
    found = []
    # None without -n, and not there at all without pytest-xdist.
    processes = getattr(config.option, "numprocesses", None)
    if (processes or 0) < 2:
        got = "none" if processes is None else f"-n {processes}"
        found.append(f"--spread: expected pytest-xdist's -n of 2 or more, got {got}; give it the number of GPUs")
    devices = {name.strip() for text in option.device for name in text.split(",")} - {""}
    if len(devices) != 1 or not devices <= set(_KINDS):
        got = ",".join(sorted(devices)) or "none"
        found.append(
            f"--spread: expected one --device, {' or '.join(_KINDS)}, without an index, got {got}; "
            "name the kind of GPU that shares the cases with its equals"
        )
    if option.gate:
        found.append("--spread: expected no --gate, got both; the gate compares in one process, leave one of them out")
    return found


def scopes(cases: Iterable[Case]) -> dict[str, str]:
    """Which cases stay in one process, by id: those of an architecture.

    They share a pretrained backbone, for which processes would wait, and the features of its frozen prefix.
    """
    return {case.id: f"{case.device} {case.architecture}" for case in cases}


def equal_devices(ask: Callable[[str], Outcome], kind: str, processes: int) -> list[str]:
    """The first device of a kind and all that are equal to it: of the same name, with as much memory.

    Numbers from different GPUs in one table would compare GPUs and not cases.

    Args:
        ask: the worker's answer about a device, as `Measurer.device` gives it.
        kind: of devices, which is the name of its first.
        processes: how many could use one each.
    """
    first = ask(kind)
    equal = [kind]
    if first.status != "ok":
        return equal
    # What is seen without torch may be too few; the first index that torch does not know ends the search.
    for index in range(1, max(DEVICES[kind].seen(), processes)):
        other = ask(f"{kind}:{index}")
        if other.status == "skipped":
            break
        # One that is here but broken is left out as one that differs.
        if other.status == "ok" and _hardware(other) == _hardware(first):
            equal.append(f"{kind}:{index}")
    return equal


def _hardware(answer: Outcome) -> tuple[Any, Any]:
    return answer.value["facts"].get("accelerator"), answer.value["total_memory"]


def placed(equal: Sequence[str], process: str) -> dict[str, str]:
    """Where a process measures, as `Measurer` takes it; more processes than devices take turns on them.

    >>> placed(["cuda", "cuda:2"], "gw1"), placed(["cuda", "cuda:2"], "gw2")
    ({'cuda': 'cuda:2'}, {'cuda': 'cuda'})

    Args:
        equal: names of devices, the cases' own first.
        process: pytest-xdist's name of it.
    """
    return {equal[0]: equal[int(process.removeprefix("gw")) % len(equal)]}
