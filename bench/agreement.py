"""How far the measuring loop can be trusted: beside torch's Timer, beside a bare loop, beside the operating system.

`python bench/agreement.py` measures all three in one run and prints Markdown. It takes some minutes; give it a quiet
machine. `--out FILE` writes the page there.
"""

import argparse
import gc
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tabulate import tabulate
from torch.utils.benchmark import Timer

from fashiontl import phases
from fashiontl.architectures.build import build
from fashiontl.case import PRESETS, Case
from fashiontl.environment import read_environment
from fashiontl.latency import Effort, Instrument, time_calls
from fashiontl.stats import mean_interval
from fashiontl.worker import Worker, usable_cores

MODELS = (
    "alexnet", "vgg11", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "squeezenet1_1",
    "shufflenet_v2_x0_5", "efficientnet_b0", "googlenet", "vit_b_32",
)  # fmt: skip
MEMORY_MODELS = ("vgg11", "resnet18", "mobilenet_v2", "densenet121")
PIXELS = 64
INSTRUMENT = Instrument(synchronize=lambda: None)


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
        print(json.dumps(run_phase(options.phase, options.architecture)))
        return
    torch.set_num_threads(usable_cores())
    page = "\n\n".join(
        [
            "# The measuring loop beside others",
            f"Written by `python bench/agreement.py --rounds {options.rounds} --seconds {options.seconds:g}` on "
            f"{machine()}.",
            timer_text(options.rounds, options.seconds),
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
    """Each model's latency at batch 1 by this project's loop, by torch's Timer and by a bare loop."""
    rows = [row(name, rounds, seconds) for name in MODELS]
    header = ("Model", "fashiontl (ms)", "Timer (ms)", "fashiontl / Timer", "bare loop (ms)", "fashiontl / bare loop")
    table = tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 5))
    return f"""## Latency at batch 1

`fashiontl`: the median of `fashiontl.latency.time_calls`, whose calls are timed one by one. `Timer`: the median of
`torch.utils.benchmark.Timer.blocked_autorange` with the same number of threads. The *bare loop* calls the model over
and over and reads the clock at the beginning and at the end only; against it stands the whole time that `time_calls`
took over the calls that it made, so that everything the loop does besides calling counts. The three take turns,
{rounds} of {seconds:g} s each, in an order that is reversed after each turn, so that a drift of the machine meets all
of them; a ratio is the mean over turns of that turn's ratio with a 95 % interval (Student's t). Images of {PIXELS}
pixels.

{table}"""


def row(name: str, rounds: int, seconds: float) -> tuple[str, ...]:
    """One model's line."""
    torch.manual_seed(0)
    model = build(name, 10, image_size=PIXELS).eval()
    images = torch.randn(1, 3, PIXELS, PIXELS)

    def call() -> torch.Tensor:
        return model(images)

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    found: dict[str, list[float]] = {"loop": [], "whole": [], "timer": [], "bare": []}

    def loop() -> None:
        median, whole = measured(call, seconds)
        found["loop"].append(median)
        found["whole"].append(whole)

    def other() -> None:
        found["timer"].append(timer.blocked_autorange(min_run_time=seconds).median)

    def bare() -> None:
        found["bare"].append(bare_seconds(call, seconds))

    turns: list[Callable[[], None]] = [loop, other, bare]
    with torch.inference_mode():
        for _ in range(10):
            call()
        for _ in range(rounds):
            for turn in turns:
                turn()
            turns.reverse()
    gc.unfreeze()
    medians = {way: 1e3 * statistics.median(values) for way, values in found.items()}
    return (
        name, f"{medians['loop']:.3f}", f"{medians['timer']:.3f}", ratio(found["loop"], found["timer"]),
        f"{medians['bare']:.3f}", ratio(found["whole"], found["bare"]),
    )  # fmt: skip


def measured(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """The loop's own median, and all the time it took over the number of its calls, the warm-up included."""
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        call()

    # One full collection is part of each loop, not of each call: without old objects it costs next to nothing.
    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    samples = time_calls(counted, INSTRUMENT, Effort(seconds, half_width=0.0))
    whole = time.perf_counter() - started
    return statistics.median(samples.values), whole / calls


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


def job(architecture: str) -> dict[str, object]:
    """What a phase is told."""
    case = Case(architecture, "full", weights="none")
    return {"case": asdict(case), "settings": asdict(replace(PRESETS["quick"], profile=False))}


def run_phase(phase: str, architecture: str) -> dict[str, object]:
    """One phase in this process; what it read of its memory."""
    torch.set_num_threads(usable_cores())
    value = getattr(phases, phase)(job(architecture), lambda text: None)
    return {name: number for name, number in value.items() if name.endswith("_memory")}


def memory_text() -> str:
    """Peaks of the resident set as the phases read them, and as the operating system tells them."""
    gnu_time = shutil.which("time")
    if gnu_time is None:
        return "## Memory\n\nGNU time is not installed here, so memory was not compared."
    rows = []
    with Worker(usable_cores()) as worker:
        for architecture in MEMORY_MODELS:
            for phase, name in (("inference", "inference"), ("step", "training")):
                metric = f"{name}_process_memory"
                forked = worker.run(phase, job(architecture), timeout=600).value[metric]
                command = [
                    gnu_time, "-v", sys.executable, __file__, "--phase", phase, "--architecture", architecture,
                ]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                alone = json.loads(done.stdout)[metric]
                found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
                assert found is not None, done.stderr
                system = int(found.group(1)) * 1024
                sizes = [f"{size / 2**20:.1f}" for size in (alone, system, forked)]
                rows.append((f"{architecture}, {name}", *sizes[:2], f"{alone / system:.4f}", sizes[2]))
    header = ("Phase", "fashiontl (MiB)", "GNU time (MiB)", "ratio", "in a forked worker (MiB)")
    table = tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", *["right"] * 4))
    return f"""## Peak memory on the CPU

Each phase runs in a process of its own under GNU time: the phase's own figure for the process beside time's `Maximum
resident set size`. The last column is the same phase as `pytest bench/` runs it, in a fork of a server; a fork counts
those pages of the libraries only that it touches itself.

{table}"""


if __name__ == "__main__":
    main()
