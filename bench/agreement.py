"""How far the measuring core can be trusted: beside torch's Timer, a bare loop and the operating system.

`python bench/agreement.py` measures all three in one run and prints Markdown. It takes some minutes; give it a quiet
machine. `--out FILE` writes the page there.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn
from torch.utils.benchmark import Timer

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.stats import mean_interval, median_interval
from fashiontl.machine.devices import Device
from fashiontl.machine.environment import choose_threads, read_environment
from fashiontl.models.build import build
from fashiontl.runner import phases
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import INFERENCE, STEP, CaseJob
from fashiontl.runner.phases import speed
from fashiontl.runner.variables import MEMORY
from fashiontl.timing.loops import DeviceTimer, calls_of, no_garbage_collection
from fashiontl.timing.slices import Slicer

MODELS = (
    "alexnet", "vgg11", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "squeezenet1_1",
    "shufflenet_v2_x0_5", "efficientnet_b0", "googlenet", "vit_b_32",
)  # fmt: skip
SMALLEST = "squeezenet1_1"
# Of a slice of single calls; its limit of time comes first.
_MOST_SAMPLES = 10_000
MEMORY_MODELS = ("vgg11", "resnet18", "mobilenet_v2", "densenet121")
PIXELS = 64
TIMER = DeviceTimer(synchronize=lambda: None)


def main() -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each way of measuring, a model (10)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn (0.5)")
    parser.add_argument("--out", type=Path, help="file to write, in place of standard output")
    parser.add_argument("--phase", help="run one phase of one architecture and print its memory; used by this script")
    parser.add_argument("--architecture", help="with --phase")
    options = parser.parse_args()
    if options.phase:
        run_phase(options.phase, options.architecture)
        return
    torch.set_num_threads(choose_threads().count)
    page = "\n\n".join(
        [
            "# The measuring loop beside others",
            f"Written by `python bench/agreement.py --rounds {options.rounds} --seconds {options.seconds:g}` on "
            f"{machine()}.",
            timer_text(options.rounds, options.seconds),
            cost_text(4 * options.rounds, options.seconds),
            memory_text(),
        ]
    )
    if options.out:
        options.out.write_text(page + "\n")
    else:
        print(page)


def machine() -> str:
    """Hardware and versions, in words."""
    here = read_environment(threads=torch.get_num_threads())
    return (
        f"{here.cpu}, {here.usable_cores:g} cores, {here.threads} threads, {here.os}, Python "
        f"{platform.python_version()}, torch {here.torch}"
    )


def timer_text(rounds: int, seconds: float) -> str:
    """Each model's latency at batch 1 by this project's loop and by torch's Timer."""
    rows = [row(name, rounds, seconds) for name in MODELS]
    header = ("Model", "fashiontl (ms)", "Timer (ms)", "fashiontl / Timer")
    table = tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 3))
    return f"""## Latency at batch 1

`fashiontl`: the median of the single calls of `fashiontl.timing.slices`. `Timer`: the median of
`torch.utils.benchmark.Timer.blocked_autorange` with the same number of threads. They take turns, {rounds} of
{seconds:g} s each, in ABBA order, so that a drift of the machine meets both; the ratio is the mean over turns of that
turn's ratio, with a 95 % interval (Student's t). Images of {PIXELS} pixels.

{table}"""


def row(name: str, rounds: int, seconds: float) -> tuple[str, ...]:
    """One model's line."""
    model, images = _model(name)

    def call() -> torch.Tensor:
        return model(images)

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    found: dict[str, list[float]] = {"loop": [], "timer": []}

    def loop() -> None:
        found["loop"].append(statistics.median(single_calls(call, seconds)))

    def other() -> None:
        found["timer"].append(timer.blocked_autorange(min_run_time=seconds).median)

    turns: list[Callable[[], None]] = [loop, other]
    with torch.inference_mode():
        for _ in range(rounds):
            for turn in turns:
                turn()
            turns.reverse()
    medians = {way: 1e3 * statistics.median(values) for way, values in found.items()}
    return name, f"{medians['loop']:.3f}", f"{medians['timer']:.3f}", ratio(found["loop"], found["timer"])


def single_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of single calls, in slices that follow one another for about `seconds`, after a warm-up."""
    with no_garbage_collection():
        slicer = Slicer(calls_of(call, TIMER), TIMER, single=True, samples=_MOST_SAMPLES)
        slicer.warm(seconds)
        found: list[float] = []
        started = time.perf_counter()
        while not found or time.perf_counter() - started < seconds:
            found += slicer.take().values
    return found


def _model(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = build(name, 10, image_size=PIXELS).eval()
    images = torch.randn(1, 3, PIXELS, PIXELS)
    with torch.inference_mode():
        for _ in range(10):
            model(images)
    return model, images


def whole_seconds(call: Callable[[], object], seconds: float) -> float:
    """All the time that the loop took over the number of its calls, the warm-up included."""
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        call()

    # One full collection is part of each loop, not of each call: without old objects it costs next to nothing.
    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    single_calls(counted, seconds)
    return (time.perf_counter() - started) / calls


def bare_seconds(call: Callable[[], object], seconds: float) -> float:
    """Seconds a call of a loop that does nothing else, for about as long."""
    gc.disable()
    started = time.perf_counter()
    call()
    count = max(1, round(seconds / (time.perf_counter() - started)))
    started = time.perf_counter()
    for _ in range(count):
        call()
    ended = time.perf_counter()
    gc.enable()
    return (ended - started) / count


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The mean ratio of turns, with its interval."""
    interval = mean_interval([mine / other for mine, other in zip(ours, theirs, strict=True)])
    return f"{interval.estimate:.3f} ± {interval.high - interval.estimate:.3f}"


def cost_text(rounds: int, seconds: float) -> str:
    """What the loop adds to a bare loop, for the fastest model and for no model at all."""
    model, images = _model(SMALLEST)

    def call() -> torch.Tensor:
        return model(images)

    found: dict[str, list[float]] = {"loop": [], "bare": []}

    def loop() -> None:
        found["loop"].append(whole_seconds(call, seconds))

    def bare() -> None:
        found["bare"].append(bare_seconds(call, seconds))

    turns: list[Callable[[], None]] = [loop, bare]
    with torch.inference_mode():
        for _ in range(rounds):
            for turn in turns:
                turn()
            turns.reverse()
    gc.unfreeze()
    interval = median_interval([mine / other for mine, other in zip(found["loop"], found["bare"], strict=True)])
    empty = statistics.median(whole_seconds(lambda: None, seconds) for _ in range(5))
    usual = statistics.median(found["bare"])
    return f"""## What the loop itself costs

The fastest of these models, {SMALLEST}, at batch 1. A *bare loop* calls it over and over and reads the clock at the
beginning and at the end only; against it stands all the time that slices of single calls took over the number of calls,
warm-up and bookkeeping included. {rounds} turns of {seconds:g} s each, in ABBA order; the median of the turns' ratios
with a 95 % interval (order statistics).

| | |
|:--|--:|
| bare loop (ms a call) | {1e3 * usual:.4f} |
| slices / bare loop | {interval.estimate:.4f} ({interval.low:.4f} to {interval.high:.4f}) |
| slices of a function that does nothing (µs a call) | {1e6 * empty:.2f} |
| the same over the bare loop's call (%) | {100 * empty / usual:.3f} |"""


def job(architecture: str) -> CaseJob:
    """What a phase is told."""
    return CaseJob(Case(architecture, "full", weights="none"), replace(PRESETS["quick"], profile=False))


def run_phase(phase: str, architecture: str) -> None:
    """One phase in this process, which prints its memory and ends as soon as the phase has read it.

    What a phase does afterwards, such as counting FLOPs, is no part of what it says of memory.
    """
    torch.set_num_threads(choose_threads().count)
    # Of training it is read once before the steps and once after them.
    readings = itertools.count(1)
    last = {"inference": 1, "step": 2}[phase]
    read: Callable[[Device, str, int], dict[str, float]] = speed.memory  # type: ignore[attr-defined]

    def memory(device: Device, name: str, base: int) -> dict[str, float]:
        found = read(device, name, base)
        if next(readings) == last:
            print(json.dumps(found), flush=True)
            os._exit(0)
        return found

    vars(speed)["memory"] = memory
    getattr(phases, phase)(job(architecture), lambda text: None)


def memory_text() -> str:
    """Peaks of the resident set as the phases read them, and as the operating system tells them."""
    gnu_time = shutil.which("time")
    if gnu_time is None:
        return "## Memory\n\nGNU time is not installed here, so memory was not compared."
    rows = []
    with Worker(choose_threads().count, allocator=MEMORY) as worker:
        for architecture in MEMORY_MODELS:
            for phase, name in ((INFERENCE, "inference"), (STEP, "training")):
                metric = f"{name}_process_memory"
                measured = worker.run(phase, job(architecture), timeout=600).found().measurement(metric)
                assert measured is not None, f"no {metric} of {architecture}"
                forked = measured.values[0]
                command = [
                    gnu_time, "-v", sys.executable, __file__, "--phase", phase.name, "--architecture", architecture,
                ]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=worker.variables)
                alone = json.loads(done.stdout)[metric]
                found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
                assert found is not None, done.stderr
                system = int(found.group(1)) * 1024
                sizes = [f"{size / 2**20:.1f}" for size in (alone, system, forked)]
                rows.append((f"{architecture}, {name}", *sizes[:2], f"{alone / system:.4f}", sizes[2]))
    header = ("Phase", "fashiontl (MiB)", "GNU time (MiB)", "ratio", "in a forked worker (MiB)")
    table = tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 4))
    return f"""## Peak memory on the CPU

Each phase runs in a process of its own under GNU time, and the process ends as soon as the phase has read its memory:
the phase's figure for the process beside time's `Maximum resident set size`. The last column is the same phase as
`pytest bench/` runs it, in a fork of a server; a fork counts those pages of the libraries only that it touches itself.

{table}"""


if __name__ == "__main__":
    main()
