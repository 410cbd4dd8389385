"""Cells measured beside planted neighbours: which slices are marked as disturbed, and is a wrong number ever unmarked?

`python bench/busy_box.py` runs real cells beside one and two spinning processes, a process that copies memory and one
that writes to a disk, each for a third of the time and for all of it, in turns with runs beside none, and prints
Markdown. It takes three quarters of an hour; give it a machine that is quiet but for that. `--keep FOLDER` keeps the
records of each run, and with `--judge` the page is made of such a folder again.

A number is wrong where its interval does not meet the range that the intervals of the quiet runs before and after it
span. Those runs are judged in the same way, by the quiet runs before and after them: what minutes differ by is in both.
"""

import argparse
import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tabulate import tabulate

from fashiontl.core.metrics import Measurement
from fashiontl.core.slices import Prior, exp_interval, interval_of, log_interval, series_of
from fashiontl.core.stats import Interval
from fashiontl.machine.environment import choose_threads, read_environment
from fashiontl.records import read_runs

# Each ends when its standard input does, which it does however this process ends.
_ENDS = """
import os, sys, threading
def wait():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=wait, daemon=True).start()
"""
_SPIN = "while True: pass"
# Two buffers of 256 MiB, beyond any cache.
_COPY = """
import numpy
source, copied = numpy.ones(2**25), numpy.ones(2**25)
while True: numpy.copyto(copied, source)
"""
_WRITE = """
block = bytes(2**20)
while True:
    with open(sys.argv[1], "wb", buffering=0) as file:
        for _ in range(128): file.write(block)
        os.fsync(file.fileno())
"""
NEIGHBOURS = {
    "one spinning": [_SPIN], "two spinning": [_SPIN] * 2, "copying memory": [_COPY], "writing to a disk": [_WRITE],
}  # fmt: skip
# Seconds on and off: of a third of the time, often enough that each run has several, and longer than any slice.
PATTERNS = {"a third": (10.0, 20.0), "all": (math.inf, 0.0)}
QUIET = "none"
METRICS = ("latency", "inference_throughput", "train_throughput", "end_to_end_throughput")
CELLS = "--arch resnet18,mobilenet_v2 --policy full,linear_probe"
OPTIONS = "--preset quick --set accuracy=false --set profile=false --device cpu"
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """One run of the cells: beside which neighbour, and for which part of the time."""

    neighbour: str
    pattern: str

    @property
    def name(self) -> str:
        """In the table."""
        return QUIET if self.neighbour == QUIET else f"{self.neighbour}, {self.pattern}"


@dataclass(frozen=True)
class Number:
    """A metric of a cell in one run.

    Attributes:
        interval: as it is shown.
        unmarked: the same if no slice were left out.
        marked: share of its slices that are marked.
    """

    interval: Interval
    unmarked: Interval
    marked: float


Numbers = dict[tuple[str, str], Number]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and print the page."""
    options = parsed(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.judge or options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.absolute()
        if not options.judge:
            plan = planned(options.neighbours, options.patterns, options.rounds)
            for index, run in enumerate(plan):
                print(f"run {index + 1} of {len(plan)}: {run.name}", file=sys.stderr, flush=True)
                take(run, folder / f"{index:03}", options.cells)
        print(page(read(folder), options.cells))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", nargs="+", choices=NEIGHBOURS, default=tuple(NEIGHBOURS), help="which (all)")
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=tuple(PATTERNS), help="how long (both)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each (1)")
    parser.add_argument("--cells", default=CELLS, help=f"options that name the cells ({CELLS})")
    parser.add_argument("--keep", type=Path, help="folder that keeps the records; must not hold any")
    parser.add_argument("--judge", type=Path, help="folder of an earlier --keep: run nothing")
    return parser.parse_args(arguments)


def planned(neighbours: Sequence[str], patterns: Sequence[str], rounds: int) -> list[Run]:
    """Runs beside a neighbour, each between two beside none."""
    quiet = Run(QUIET, "")
    busy = [Run(neighbour, pattern) for _ in range(rounds) for neighbour in neighbours for pattern in patterns]
    return [quiet, *chain.from_iterable((run, quiet) for run in busy)]


def take(run: Run, folder: Path, cells: str) -> None:
    """Run the cells beside a neighbour; a run that fails ends this script."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"neighbour": run.neighbour, "pattern": run.pattern}))
    command = [
        *(sys.executable, "-m", "pytest", str(ROOT / "bench"), "-q", "-p", "no:cacheprovider"),
        *(*shlex.split(OPTIONS), *shlex.split(cells), f"--results={folder / 'results'}"),
    ]
    with planted(run, folder), (folder / "log.txt").open("wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)


@contextlib.contextmanager
def planted(run: Run, folder: Path) -> Iterator[None]:
    """Keep a neighbour running for its part of the time."""
    if run.neighbour == QUIET:
        yield
        return
    on, off = PATTERNS[run.pattern]
    scrap = folder / "scrap"
    programs = [
        subprocess.Popen([sys.executable, "-c", _ENDS + program, str(scrap)], stdin=subprocess.PIPE, env=_one_thread())
        for program in NEIGHBOURS[run.neighbour]
    ]
    over = threading.Event()

    def toggle() -> None:
        while not over.wait(None if on == math.inf else on):
            _signal(programs, signal.SIGSTOP)
            if over.wait(off):
                return
            _signal(programs, signal.SIGCONT)

    toggling = threading.Thread(target=toggle)
    toggling.start()
    try:
        time.sleep(1)  # until they are at work
        if ended := [each.returncode for each in programs if each.poll() is not None]:
            raise RuntimeError(f"expected neighbours that work, got exit codes {ended}")
        yield
    finally:
        over.set()
        toggling.join()
        for program in programs:
            program.kill()
            program.communicate()
        scrap.unlink(missing_ok=True)


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _signal(programs: Sequence["subprocess.Popen[bytes]"], number: signal.Signals) -> None:
    for program in programs:
        if program.poll() is None:
            program.send_signal(number)


def read(folder: Path) -> list[tuple[Run, Numbers]]:
    """The runs in a folder that `take` filled, in their order.

    Raises:
        SystemExit: a folder holds no run, or no records.
    """
    found = []
    for place in sorted(folder.glob("[0-9]*")):
        records, errors = read_runs(place / "results")
        if errors or not records:
            sys.exit(f"expected records in {place / 'results'}, got {errors or 'none'}; see {place / 'log.txt'}")
        numbers = {
            (record.id, metric): number_of(measurement)
            for record in records
            for metric in METRICS
            if (measurement := record.measurement(metric)) and measurement.slices
        }
        found.append((Run(**json.loads((place / "run.json").read_text())), numbers))
    if not found:
        sys.exit(f"expected folders 000, 001, ... in {folder}, got none; make them with --keep")
    return found


def number_of(measurement: Measurement) -> Number:
    """What a measurement in slices says."""
    slices = measurement.slices
    assert slices is not None
    marked = set(chain.from_iterable(slices.disturbed.values()))
    prior = Prior(*slices.prior) if slices.prior else None
    everything = exp_interval(log_interval(series_of(measurement, disturbed=True), prior))
    return Number(interval_of(measurement), everything, len(marked) / len(slices.counts))


def page(runs: Sequence[tuple[Run, Numbers]], cells: str) -> str:
    """The table, and what it was made on."""
    names = dict.fromkeys(run.name for run, _ in runs)
    rows = [row(name, runs) for name in names]
    header = (
        "Planted", "Runs", "Numbers", "Slices marked", "Numbers with a mark", "Wrong", "Wrong with all slices",
        "Largest error", "Unmarked wrong",
    )  # fmt: skip
    table = tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 8))
    here = read_environment(threads=choose_threads().count)
    return (
        f"{here.cpu}, {here.usable_cores:g} cores, {here.os}, torch {here.torch}. Cells: `{cells} {OPTIONS}`; "
        f"{len(runs)} runs.\n\n{table}"
    )


def row(name: str, runs: Sequence[tuple[Run, Numbers]]) -> tuple[str, ...]:
    """What a kind of run shows, all of its runs together."""
    numbers: list[Number] = []
    wrong: list[Number] = []
    as_one = 0
    errors: list[float] = []
    own = [index for index, (run, _) in enumerate(runs) if run.name == name]
    for index in own:
        for key, number in runs[index][1].items():
            span = quiet_span(runs, index, key)
            numbers.append(number)
            if span is not None:
                as_one += not number.unmarked.overlaps(span)
                errors.append(abs(math.log(number.interval.estimate / span.estimate)))
                if not number.interval.overlaps(span):
                    wrong.append(number)
    return (
        name, str(len(own)), str(len(numbers)), f"{sum(each.marked for each in numbers) / max(1, len(numbers)):.0%}",
        str(sum(each.marked > 0 for each in numbers)), str(len(wrong)), str(as_one),
        f"{math.expm1(max(errors, default=0.0)):.0%}", str(sum(not each.marked for each in wrong)),
    )  # fmt: skip


def quiet_span(runs: Sequence[tuple[Run, Numbers]], index: int, key: tuple[str, str]) -> Interval | None:
    """What the quiet runs before and after a run span together, around their mean; None where there are none."""
    before = [numbers[key] for run, numbers in runs[:index] if run.neighbour == QUIET and key in numbers][-1:]
    after = [numbers[key] for run, numbers in runs[index + 1 :] if run.neighbour == QUIET and key in numbers][:1]
    found = [number.interval for number in before + after]
    if not found:
        return None
    mean = math.exp(sum(math.log(each.estimate) for each in found) / len(found))
    return Interval(mean, min(each.low for each in found), max(each.high for each in found))


if __name__ == "__main__":
    main()
