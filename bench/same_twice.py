"""The same networks twice in one run, and again in later ones: how often numbers that should agree do not.

    python bench/same_twice.py --results DIR --runs 2 --pause 60
    python bench/same_twice.py --results DIR --planted --policy full --runs 2
    python bench/same_twice.py --results DIR --judge

The first makes runs of `pytest bench/` in which each architecture stands beside a twin of another name, the second
ones in which it stands beside networks that are slower by 3, 5 and 10 % (`bench/twins.py`). Both need a quiet
machine. The third prints Markdown of all runs in a folder: pairs in one run whose 95 % intervals are disjoint (of
independent ones less than 1 % are), estimates of a run that lie outside of what the runs before it predict, and
whether the interval of a planted difference holds what was planted.
"""

import argparse
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
from twins import NETWORKS, SLOWER

from fashiontl.core.metrics import METRICS, Measurement
from fashiontl.core.slices import difference, interval_of, quantile_interval, used_series
from fashiontl.core.stats import Interval
from fashiontl.records import Record, read_runs
from fashiontl.reports.leaderboard.between import between

POLICIES = ("scratch", "linear_probe", "last_stage", "bn_only")
TIMED = ("latency", "inference_throughput", "train_throughput", "end_to_end_throughput")
P90 = "latency p90"
# Of a run, by cell and metric.
Numbers = dict[tuple[str, str], Measurement]


def measure(
    results: Path, networks: Sequence[str], policies: Sequence[str], more: Sequence[str], *, planted: bool
) -> None:
    """One run, with each network twice, or beside slower ones."""
    beside = [f"slow{percent}_" for percent in SLOWER] if planted else ["twin_"]
    names = [prefix + network for network in networks for prefix in ("", *beside)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench/",
        "-q",
        "--arch",
        ",".join(names),
        "--policy",
        ",".join(policies),
    ]
    command += ["--fashiontl-plugin", str(Path(__file__).resolve().parent / "twins.py"), "--results", str(results)]
    command += ["--set", "accuracy=false", "--set", "profile=false", *more]
    subprocess.run(command, check=True)


def by_run(records: Sequence[Record]) -> dict[str, Numbers]:
    """What each run measured, in the order of time; of cells that share a measurement the first has it."""
    found: dict[str, Numbers] = defaultdict(dict)
    for record in sorted(records, key=lambda each: each.started):
        for each in record.measurements:
            if each.metric in TIMED and each.slices is not None:
                cell = each.slices.shared[0] if each.slices.shared else record.id
                found[record.run].setdefault((cell, each.metric), each)
    return dict(found)


def pairs(numbers: Numbers, prefix: str) -> Iterator[tuple[str, Measurement, Measurement]]:
    """Metric and both measurements of each cell that stands beside another one of its network."""
    for (cell, metric), one in numbers.items():
        if (other := numbers.get((prefix + cell, metric))) is not None:
            yield metric, one, other


def intervals(measurement: Measurement) -> Iterator[tuple[str, Interval]]:
    """The numbers that a measurement is shown as."""
    yield measurement.metric, interval_of(measurement)
    if measurement.metric == "latency":
        yield P90, quantile_interval(measurement, 90)


def judged(runs: dict[str, Numbers]) -> str:
    """Markdown of what agrees in one run, between runs, and with what was planted."""
    together: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for numbers in runs.values():
        for _, one, other in pairs(numbers, "twin_"):
            for (metric, ours), (_, theirs) in zip(intervals(one), intervals(other), strict=True):
                together[metric].append((not ours.overlaps(theirs), _width(ours)))
    texts = [f"{machine()}, {len(runs)} runs", _table("in one run", "disjoint", together)]
    if later := _later(runs):
        texts.append(_table("in a later run", "outside", later))
    planted = [row for percent in SLOWER if (row := _planted(runs, percent))]
    if planted:
        header = ["planted", "differences", "held it", "found", "undecided", "half-width (median)"]
        texts.append(tabulate(planted, header, tablefmt="github"))
    return "\n\n".join(texts)


def _later(runs: dict[str, Numbers]) -> dict[str, list[tuple[bool, float]]]:
    found: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    logs = {
        name: {key: math.log(interval_of(measured).estimate) for key, measured in numbers.items()}
        for name, numbers in runs.items()
    }
    names = list(runs)
    for count in range(2, len(names)):
        before, now = names[:count], logs[names[count]]
        for metric in TIMED:
            cells = [key for key in now if key[1] == metric and all(key in logs[name] for name in before)]
            spread = between([{name: logs[name][key] for name in before} for key in cells])
            for key in cells if spread else ():
                assert spread is not None
                away = abs(now[key] - logs[before[-1]][key])
                found[metric].append((away > math.log1p(spread.later), spread.later))
    return found


def _planted(runs: dict[str, Numbers], percent: int) -> list[object] | None:
    """Differences of cells from those that are slower by so many per cent forwards."""
    found = []
    for numbers in runs.values():
        for metric, one, other in pairs(numbers, f"slow{percent}_"):
            if metric in ("latency", "inference_throughput"):
                sign = 1 if METRICS[metric].better == "lower" else -1
                change = difference(used_series(other), used_series(one))
                low, high = sorted((sign * change.low, sign * change.high))
                found.append((low <= math.log1p(percent / 100) <= high, low > 0, (high - low) / 2))
    if not found:
        return None
    held, seen, widths = zip(*found, strict=True)
    undecided = len(found) - sum(seen)
    return [f"{percent} %", len(found), sum(held), sum(seen), undecided, f"± {100 * median(widths):.1f} %"]


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
    parser.add_argument("--planted", action="store_true", help="beside slower networks in place of twins")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--arch", default=",".join(NETWORKS))
    parser.add_argument("--policy", default=",".join(POLICIES))
    given, more = parser.parse_known_args()
    for number in range(0 if given.judge else given.runs):
        time.sleep(given.pause if number else 0)
        measure(given.results, given.arch.split(","), given.policy.split(","), more, planted=given.planted)
    print(judged(by_run(read_runs(given.results).records)))


if __name__ == "__main__":
    main()
