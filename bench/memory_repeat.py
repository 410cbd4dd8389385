"""Whether peaks of memory are the same again: each cell several times, each time by a fresh server of processes.

`python bench/memory_repeat.py --arch resnet18 mobilenet_v2 --policy full linear_probe` prints Markdown; without the
options it takes all cells of the default matrix. Nothing is timed, so it does not mind a busy machine.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from agreement import machine
from tabulate import tabulate

from fashiontl.core.case import DEFAULT_ARCHITECTURES, DEFAULT_POLICIES, PRESETS, Case
from fashiontl.runner.client import Worker
from fashiontl.runner.messages import INFERENCE, STEP, CaseJob
from fashiontl.runner.variables import MEMORY

PEAKS = {INFERENCE: "inference_peak_memory", STEP: "training_peak_memory"}
HEADER = ("Cell", "Inference peaks (MiB)", "Spread (%)", "Training peaks (MiB)", "Spread (%)")


def peaks(cell: Case, times: int, threads: int) -> list[list[float]]:
    """MiB of inference, then of training, each so many times.

    Raises:
        FashiontlError: a phase did not end well.
    """
    # What weights hold changes no peak, and pretraining takes minutes.
    job = CaseJob(replace(cell, weights="none"), PRESETS["quick"])
    found: list[list[float]] = [[] for _ in PEAKS]
    for _ in range(times):
        with Worker(threads, allocator=MEMORY) as worker:
            for sizes, (phase, metric) in zip(found, PEAKS.items(), strict=True):
                measured = worker.run(phase, job, job.settings.timeout).found().measurement(metric)
                assert measured is not None, f"no {metric} of {cell.id}"
                sizes.append(measured.values[0] / 2**20)
    return found


def spread(sizes: Sequence[float]) -> float:
    """The largest over the smallest, less one, in percent."""
    return 100 * (max(sizes) / min(sizes) - 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", default=DEFAULT_ARCHITECTURES, help="architectures (the default four)")
    parser.add_argument("--policy", nargs="+", default=DEFAULT_POLICIES, help="policies (the default five)")
    parser.add_argument("--times", type=int, default=3, help="servers, one after the other (3)")
    parser.add_argument("--threads", type=int, default=0, help="of each process (0: as `pytest bench/` takes)")
    options = parser.parse_args()
    rows = []
    for architecture in options.arch:
        for policy in options.policy:
            cell = Case(architecture, policy)
            row = [cell.id]
            for sizes in peaks(cell, options.times, options.threads):
                row += [" ".join(f"{size:.1f}" for size in sizes), f"{spread(sizes):.1f}"]
            rows.append(row)
    spreads = [float(each) for row in rows for each in row[2::2]]
    align = ("left", *["right"] * 4)
    print(tabulate(rows, headers=HEADER, tablefmt="pipe", disable_numparse=True, colalign=align))
    print(f"\nLargest spread: {max(spreads):.1f} %. Each cell {options.times} times on {machine()}.")


if __name__ == "__main__":
    main()
