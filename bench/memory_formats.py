"""Which networks train faster in channels_last on this CPU: both formats in turns, beside what the rule says.

`python bench/memory_formats.py` prints Markdown; give it a quiet machine. The rule is
`fashiontl.timing.variants.faster_format`, by which backbones are pretrained.
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from agreement import machine
from fast import spread, turns
from tabulate import tabulate

from fashiontl.core.case import MEMORY_FORMATS, PRESETS, Case
from fashiontl.machine.environment import choose_threads
from fashiontl.runner.messages import CaseJob
from fashiontl.runner.workload import Workload
from fashiontl.timing.variants import faster_format, small_convolutions

ARCHITECTURES = (
    "alexnet", "vgg11", "resnet18", "inception_v3", "densenet121", "squeezenet1_1", "googlenet", "resnet50",
    "resnext50_32x4d", "regnet_y_400mf", "shufflenet_v2_x1_0", "efficientnet_b0", "mobilenet_v2", "mnasnet1_0",
    "mobilenet_v3_small",
)  # fmt: skip
_WARM_UP = 2
# Small images cannot pass through all of them.
LEAST_SIZES = {"inception_v3": 96, "alexnet": 64}


@dataclass(frozen=True)
class Pair:
    """One network's training steps in both formats; `share` is that of its convolutions of one pixel or in groups."""

    architecture: str
    size: int
    share: float
    rule: str
    contiguous: tuple[float, ...]
    channels_last: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster channels_last was, turn by turn."""
        return [before / after for before, after in zip(self.contiguous, self.channels_last, strict=True)]


def pair(architecture: str, size: int, batch: int, count: int) -> Pair:
    """Time so many steps in both formats, one of each in a turn, after two that do not count; the order alternates."""
    settings = replace(PRESETS["quick"], image_size=size, throughput_batch=batch)
    steps = {}
    for memory_format in MEMORY_FORMATS:
        torch.manual_seed(0)
        case = Case(architecture, "scratch", weights="none", memory_format=memory_format)
        work = Workload.of(CaseJob(case, settings))
        starts = work.starts()
        steps[memory_format] = work.training_step(starts)
    network = starts[0].network
    seconds: dict[str, list[float]] = {name: [] for name in MEMORY_FORMATS}
    for turn, name in turns(MEMORY_FORMATS, _WARM_UP + count):
        begun = time.perf_counter()
        steps[name]()
        if turn >= _WARM_UP:
            seconds[name].append(time.perf_counter() - begun)
    times = {name: tuple(values) for name, values in seconds.items()}
    return Pair(architecture, size, small_convolutions(network), faster_format(network, "cpu"), **times)


def table(pairs: Sequence[Pair]) -> str:
    """A row a network, by the share that the rule looks at."""
    rows = [
        (
            f"`{one.architecture}`", one.size, f"{one.share:.2f}", f"{1e3 * statistics.median(one.contiguous):.0f}",
            f"{1e3 * statistics.median(one.channels_last):.0f}",
            spread(one.ratios, 2), one.rule,
        )
        for one in sorted(pairs, key=lambda one: (one.share, one.architecture, one.size))
    ]  # fmt: skip
    header = (
        "Architecture", "Pixels", "Small convolutions", "contiguous (ms)", "channels_last (ms)", "times as fast",
        "rule",
    )  # fmt: skip
    alignment = ("left", *["right"] * 5, "left")
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure, and return the table and what it rests on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, help="architectures (one or two of each family)")
    parser.add_argument("--sizes", nargs="+", type=int, default=(32, 96), help="sides of the images in pixels (32 96)")
    parser.add_argument("--batch", type=int, default=32, help="images a step (32)")
    parser.add_argument("--turns", type=int, default=7, help="steps of each format that count (7)")
    parser.add_argument("--threads", type=int, default=choose_threads().count, help="CPU threads (all cores)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    where = f"{machine()}, load {os.getloadavg()[0]:.2f} at the start"
    pairs = []
    for architecture in options.arch:
        for size in dict.fromkeys(max(size, LEAST_SIZES.get(architecture, 0)) for size in options.sizes):
            pairs.append(pair(architecture, size, options.batch, options.turns))
            print(table(pairs[-1:]).splitlines()[-1], file=sys.stderr)
    command = shlex.join(["python", "bench/memory_formats.py", *(sys.argv[1:] if arguments is None else arguments)])
    return f"""{table(pairs)}

Training steps from random weights on {options.batch} images, float32; medians of {options.turns} steps a format, one of
each in a turn; in brackets the least and the greatest ratio of a turn. Small convolutions: the share of those of one
pixel or in groups.

`{command}` on {where}."""


if __name__ == "__main__":
    print(main())
