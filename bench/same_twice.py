"""The same networks twice in one run, and again in later ones: how often numbers that should agree do not.

    python bench/same_twice.py --results DIR --runs 2 --pause 60
    python bench/same_twice.py --results DIR --judge

The first makes runs of `pytest bench/` in which each architecture stands beside a twin of another name; give it a quiet
machine. The second prints Markdown of all runs in a folder: pairs in one run whose 95 % intervals are
disjoint (two independent ones of this kind are so in less than 1 % of cases), and estimates of a run that lie outside of
what the runs before it predict. As an extension (`--fashiontl-plugin`) this file registers the twins.
"""

import argparse
import dataclasses
import math
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from agreement import machine
from tabulate import tabulate

from fashiontl.core.slices import interval_of, quantile_interval
from fashiontl.core.stats import Interval
from fashiontl.matrix.extensions import register
from fashiontl.models.registry import ARCHITECTURES
from fashiontl.records import Record, read_runs
from fashiontl.reports.leaderboard.between import between

NETWORKS = ("resnet18", "mobilenet_v2", "resnet9", "shufflenet_v2_x0_5")
POLICIES = ("scratch", "linear_probe", "last_stage", "bn_only")
_TWIN = "twin_"
METRICS = ("latency", "inference_throughput", "train_throughput", "end_to_end_throughput")

register(*(dataclasses.replace(ARCHITECTURES[name], name=_TWIN + name) for name in NETWORKS))


def measure(results: Path, networks: Sequence[str], more: Sequence[str]) -> None:
    """One run, with each network twice."""
    names = ",".join(name for network in networks for name in (network, _TWIN + network))
    command = [sys.executable, "-m", "pytest", "bench/", "-q", "--arch", names, "--policy", ",".join(POLICIES)]
    command += ["--fashiontl-plugin", str(Path(__file__).resolve()), "--results", str(results)]
    command += ["--set", "accuracy=false", "--set", "profile=false", *more]
    subprocess.run(command, check=True)


def by_run(records: Sequence[Record]) -> dict[str, dict[tuple[str, str], Interval]]:
    """Of each run, in the order of time, its numbers: by what was measured, which cells may share, and metric."""
    found: dict[str, dict[tuple[str, str], Interval]] = defaultdict(dict)
    for record in sorted(records, key=lambda each: each.started):
        for each in record.measurements:
            if each.metric in METRICS and each.slices is not None:
                # Cells that share one measurement are one.
                cell = each.slices.shared[0] if each.slices.shared else record.id
                found[record.run].setdefault((cell, each.metric), interval_of(each))
                if each.metric == "latency":
                    found[record.run].setdefault((cell, "latency p90"), quantile_interval(each, 90))
    return dict(found)


def pairs(numbers: dict[tuple[str, str], Interval]) -> Iterator[tuple[str, Interval, Interval]]:
    """Metric and both numbers of each cell that has a twin."""
    for (cell, metric), one in numbers.items():
        if (other := numbers.get((_TWIN + cell, metric))) is not None:
            yield metric, one, other


def judged(runs: dict[str, dict[tuple[str, str], Interval]]) -> str:
    """Markdown of what agrees in one run and between runs."""
    together: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    later: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for numbers in runs.values():
        for metric, one, other in pairs(numbers):
            together[metric].append((not one.overlaps(other), _width(one)))
    names = list(runs)
    for count in range(2, len(names)):
        before = [runs[name] for name in names[:count]]
        for metric in (*METRICS, "latency p90"):
            cells = [key for key in runs[names[count]] if key[1] == metric and all(key in each for each in before)]
            spread = between([{name: math.log(runs[name][key].estimate) for name in names[:count]} for key in cells])
            if spread is None:
                continue
            for key in cells:
                away = abs(math.log(runs[names[count]][key].estimate / before[-1][key].estimate))
                later[metric].append((away > math.log1p(spread.later), spread.later))
    return "\n\n".join(
        [
            f"{machine()}, {len(runs)} runs",
            _table("in one run", "disjoint", together),
            _table("in a later run", "outside", later),
        ]
    )


def _width(interval: Interval) -> float:
    return (interval.high - interval.low) / 2 / interval.estimate


def _table(title: str, what: str, found: dict[str, list[tuple[bool, float]]]) -> str:
    rows = [
        [metric, len(each), sum(wrong for wrong, _ in each), f"± {100 * median(width for _, width in each):.1f} %"]
        for metric, each in (*found.items(), ("all", [one for every in found.values() for one in every]))
        if each
    ]
    return tabulate(rows, [title, "pairs", what, "half-width (median)"], tablefmt="github")


def main() -> None:
    """Measure runs, or judge those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between runs")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--arch", default=",".join(NETWORKS))
    arguments, more = parser.parse_known_args()
    for number in range(0 if arguments.judge else arguments.runs):
        time.sleep(arguments.pause if number else 0)
        measure(arguments.results, arguments.arch.split(","), more)
    print(judged(by_run(read_runs(arguments.results).records)))


if __name__ == "__main__":
    main()
