"""How long a training takes: fashiontl beside the loop that people write, and beside Lightning's Trainer.

`python bench/fast.py` runs all three and prints Markdown; give it a quiet machine. Each training is in a process of its
own and the sides take turns: first to last, then last to first. Needs Lightning (`pip install lightning`), or
`--only plain`. fashiontl runs in the worker of `pytest bench/`, which sets how memory is allocated; the others run as a
script does, in a plain Python process. `--same-process` puts all of them in that worker.
"""

import argparse
import importlib.util
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from agreement import machine
from tabulate import tabulate

from fashiontl.core.case import MEMORY_FORMATS, PRESETS, Case
from fashiontl.data import TASKS, find_task
from fashiontl.machine.environment import choose_threads
from fashiontl.runner.cell import cache_folder
from fashiontl.runner.client import Worker

POLICIES = ("linear_probe", "last_stage", "full", "scratch")
NAMES = {"fashiontl": "fashiontl", "plain": "plain", "lightning": "Lightning"}
FOLDER = Path(__file__).parent
DAY = 86400.0


@dataclass(frozen=True)
class Run:
    """One training by one side; the fields after the first four are those of `fast_sides.measure`."""

    policy: str
    side: str
    seed: int
    round: int
    train_seconds: float
    test_seconds: float
    cpu_seconds: float
    accuracy: float
    losses: Sequence[float]
    reused_stages: int


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="architecture (resnet18)")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, help="freezing policies (all)")
    parser.add_argument("--only", choices=("plain", "lightning"), help="the one side beside fashiontl (both)")
    parser.add_argument("--task", default="fashion4", help="classes (fashion4)")
    parser.add_argument("--weights", default="fashion6", help="of all policies but scratch; none starts at random")
    parser.add_argument("--epochs", type=int, default=20, help="of every policy (20)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (32)")
    parser.add_argument("--per-class", type=int, default=125, help="training images a class (125)")
    parser.add_argument("--test-per-class", type=int, default=200, help="test images a class (200)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each, with seeds 0, 1, ... (1)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side with each seed (3)")
    parser.add_argument("--threads", type=int, default=choose_threads().count, help="of each side (all cores)")
    parser.add_argument("--loader-workers", type=int, default=0, help="num_workers of DataLoaders (0, as by default)")
    parser.add_argument(
        "--memory-format", choices=MEMORY_FORMATS, default="contiguous", help="of fashiontl's training (contiguous)"
    )
    parser.add_argument("--same-process", action="store_true", help="run every side in fashiontl's worker")
    parser.add_argument("--json", type=Path, help="file to write every run to")
    options = parser.parse_args(arguments)
    if options.only != "plain" and importlib.util.find_spec("lightning") is None:
        parser.error("Lightning is not installed: pip install lightning, or compare with --only plain")
    return options


def sides(options: argparse.Namespace) -> tuple[str, ...]:
    """The names of fashiontl and of what it is compared with."""
    return ("fashiontl", options.only) if options.only else tuple(NAMES)


def turns(names: Sequence[str], rounds: int, seed: int = 0) -> list[tuple[int, str]]:
    """Rounds and sides in the order of their runs, so that a drift of the machine meets all sides alike."""
    return [(turn, name) for turn in range(rounds) for name in (names if (turn + seed) % 2 == 0 else reversed(names))]


def job(options: argparse.Namespace, policy: str) -> dict[str, Any]:
    """What a phase is told; the pretraining is that of the quick preset, so they share its file."""
    settings = replace(
        PRESETS["quick"], epochs=options.epochs, batch_size=options.batch_size, train_per_class=options.per_class,
        test_per_class=options.test_per_class,
    )  # fmt: skip
    case = Case(options.arch, policy, task=options.task, weights=options.weights, memory_format=options.memory_format)
    return {
        "case": asdict(case), "settings": asdict(settings), "cache": str(cache_folder()), "threads": options.threads,
        "loader_workers": options.loader_workers,
    }  # fmt: skip


def in_worker(worker: Worker, phase: str, job: dict[str, Any]) -> dict[str, Any]:
    """A phase in a fork of the worker's server."""
    outcome = worker.run(phase, job, timeout=DAY)
    if outcome.status != "ok":
        raise SystemExit(f"{phase}: {outcome.status}: {outcome.reason}")
    return outcome.value


def in_script(job: dict[str, Any]) -> dict[str, Any]:
    """A side in a new Python process."""
    threads = str(job["threads"])
    done = subprocess.run(
        [sys.executable, str(FOLDER / "fast_sides.py")], input=json.dumps(job), capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{job['side']}: {done.stderr}")
    # Lightning may say something before it.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace, done: Callable[[Run], None]) -> list[Run]:
    """Every training of every side, the sides in turns."""
    runs = []
    with Worker(options.threads, phases="fast_sides", trees=[FOLDER]) as worker:
        for policy, seed in itertools.product(options.policies, range(options.seeds)):
            request = job(options, policy) | {"seed": seed}
            if request["case"]["weights"] in TASKS:
                request["checkpoints"] = in_worker(worker, "pretrain", request)["checkpoints"]
            for turn, side in turns(sides(options), options.rounds, seed):
                asked = request | {"side": side}
                pinned = side == "fashiontl" or options.same_process
                found = in_worker(worker, "measure", asked) if pinned else in_script(asked)
                runs.append(Run(policy, side, seed, turn, **found))
                done(runs[-1])
    return runs


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and from where to where the values are if there are several."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def paired(runs: Sequence[Run], policy: str, side: str, field: str) -> list[float]:
    """A side's seconds over fashiontl's, of one policy, for each seed and round."""
    found = {(run.side, run.seed, run.round): getattr(run, field) for run in runs if run.policy == policy}
    turns = [key[1:] for key in found if key[0] == "fashiontl"]
    return [found[side, *turn] / found["fashiontl", *turn] for turn in turns]


def times(runs: Sequence[Run], field: str, others: Sequence[tuple[str, Callable[[list[Run]], str]]] = ()) -> str:
    """A table: a line a policy, each side's seconds, the ratios, and other columns."""
    names = tuple(name for name in NAMES if any(run.side == name for run in runs))
    rows = []
    for policy in dict.fromkeys(run.policy for run in runs):
        mine = [run for run in runs if run.policy == policy]
        seconds = [spread([getattr(run, field) for run in mine if run.side == name], 2) for name in names]
        ratios = [f"**{spread(paired(runs, policy, name, field), 2)}**" for name in names[1:]]
        rows.append((f"`{policy}`", *seconds, *ratios, *(text(mine) for _, text in others)))
    header = (
        "Policy",
        *(f"{NAMES[name]} (s)" for name in names),
        *(f"{NAMES[name]} / fashiontl" for name in names[1:]),
        *(title for title, _ in others),
    )
    alignment = ("left", *["right"] * (len(header) - 1))
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def accuracy(side: str) -> tuple[str, Callable[[list[Run]], str]]:
    """A column: the mean accuracy over seeds; rounds repeat a training and add nothing to it."""

    def text(mine: list[Run]) -> str:
        first = {run.seed: run.accuracy for run in reversed(mine) if run.side == side}
        return f"{100 * statistics.fmean(first.values()):.1f}"

    return f"accuracy, {NAMES[side]} (%)", text


def reused(mine: list[Run]) -> str:
    """How many leading stages fashiontl computed once; in every run, or the fewest and the most."""
    counts = sorted({run.reused_stages for run in mine if run.side == "fashiontl"})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def page(runs: Sequence[Run], options: argparse.Namespace, command: str, where: str) -> str:
    """Both tables and what they rest on."""
    classes = len(find_task(options.task).class_names)
    columns = [*(accuracy(name) for name in sides(options)), ("stages computed once", reused)]
    packages = [name for name in ("torchvision", *sides(options)[1:]) if name != "plain"]
    count = options.rounds * options.seeds
    processes = (
        "all in fashiontl's worker" if options.same_process else "fashiontl in its worker, the others as scripts"
    )
    pixels = PRESETS["quick"].image_size
    formats = (
        ""
        if options.memory_format == "contiguous"
        else "fashiontl trains in channels_last, the others as torch does.\n"
    )
    return f"""## Training

{times(runs, "train_seconds", columns)}

{options.arch}, `{options.task}`, weights `{options.weights}` (`scratch`: none), CPU, float32. Every policy takes
{options.epochs} epochs of {options.per_class * classes} images of {pixels} pixels, {options.batch_size} a step.
{formats}
Wall time from images in memory to trained weights, with all that a side does for it: making its loader or its features,
and fashiontl's proof that the policy was kept. Optimiser, schedule, loss, freezing and pixels are the same. Medians,
and in brackets least and greatest, of n = {count} a side (seeds: {options.seeds}, rounds: {options.rounds}); a ratio is
of two runs of the same seed and round. Each run is in a process of its own ({processes}), after one batch to warm up.
Accuracy: mean over seeds on {options.test_per_class * classes} test images.

## Testing

{times(runs, "test_seconds")}

fashiontl by `predict`; the others from a DataLoader, {options.batch_size} images a batch. DataLoaders have
`num_workers={options.loader_workers}`.

`{command}` on {where}; {", ".join(f"{name} {version(name)}" for name in packages)}."""


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure, write the runs if asked, and return the page."""
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    where = f"{machine()}, load {os.getloadavg()[0]:.2f} at the start"
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "bench/fast.py", *given])

    def done(run: Run) -> None:
        print(
            f"{run.policy}, seed {run.seed}, round {run.round}, {run.side}: {run.train_seconds:.2f} s, "
            f"{run.accuracy:.1%}",
            file=sys.stderr,
        )

    runs = measure(options, done)
    if options.json:
        facts = {"command": command, "machine": where, "runs": [asdict(run) for run in runs]}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return page(runs, options, command, where)


if __name__ == "__main__":
    print(main())
