"""How often the gate errs on this machine: real gates over real networks whose head does a known amount more.

`python bench/gate_real.py --json gates --resume` takes gates of unchanged code, of heads that are slower by 5, 7 and
10 %, and of unchanged code beside a process that disturbs one arm, and prints Markdown. Each gate's raw numbers are
kept, so that a long run can be done in pieces and judged again.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime
from pathlib import Path

from gate_planted import CHANNELS, MODULE, Amount, Slower, burning, fit, make_repository, measured, nets
from msgspec import structs
from tabulate import tabulate

from fashiontl.core.case import PRESETS, Case, Settings
from fashiontl.core.errors import FashiontlError
from fashiontl.gate import raw as rawfile
from fashiontl.gate.judge import judge
from fashiontl.gate.raw import Raw
from fashiontl.gate.result import EXIT_CODES, Finding, GateResult
from fashiontl.gate.runner import stated

METRICS = ("latency", "train_throughput")
PLANTED = (0.05, 0.07, 0.10)
VERDICTS = ("REGRESSED", "INCONCLUSIVE", "PASS", "IMPROVED")
CALIBRATION = "calibration.json"
Compare = Callable[..., GateResult]
Calibration = dict[str, dict[str, Amount]]


@dataclass(frozen=True)
class Kind:
    """What is done to a gate.

    Attributes:
        name: in file names and tables.
        planted: how much slower the head is.
        burner: whether another process disturbs the head's turns.
    """

    name: str
    planted: float = 0.0
    burner: bool = False


KINDS = (
    Kind("aa"), *(Kind(f"planted-{100 * share:g}", share) for share in PLANTED), Kind("burner", burner=True),
)  # fmt: skip


def calibrate(slower: Slower, progress: Callable[[str], None]) -> Calibration:
    """Find the calls that make each metric slower by each planted share."""
    found: Calibration = {}
    for kind in KINDS:
        if kind.planted:
            found[kind.name] = {metric: fit(lambda n, m=metric: slower(m, n), kind.planted) for metric in METRICS}
            told = ", ".join(f"{metric} {100 * one.achieved:.1f} %" for metric, one in found[kind.name].items())
            progress(f"calibrated {kind.name}: {told}")
    return found


def wanted(counts: dict[str, int], folder: Path) -> list[tuple[Kind, Path]]:
    """Gates that are not in the folder yet, kind after kind, so that a run that is cut short has some of each."""
    gates = [
        (kind, folder / f"{kind.name}-{number:03}.json")
        for number in range(max(counts.values()))
        for kind in KINDS
        if number < counts[kind.name]
    ]
    return [(kind, path) for kind, path in gates if not path.exists()]


def take(
    gates: Sequence[tuple[Kind, Path]],
    repository: Path,
    case: Case,
    settings: Settings,
    amounts: Calibration,
    *,
    compare: Compare,
    progress: Callable[[str], None],
) -> None:
    """Run gates and keep their raw numbers.

    Args:
        gates: and the files in which they are kept.
        repository: whose commit `base` is the base, and whose working tree is written.
        case: the cell.
        settings: of all gates.
        amounts: of extra work.
        compare: `fashiontl.gate.commands.compare`.
        progress: called with a line after each gate.
    """
    from fashiontl.gate.runner import Order

    architecture = case.architecture.removesuffix("_extra")
    for number, (kind, path) in enumerate(gates, 1):
        calls = {metric: amounts[kind.name][metric].calls if kind.planted else 0 for metric in METRICS}
        (repository / MODULE).write_text(nets(architecture, calls["train_throughput"], calls["latency"]))
        order = Order([case], settings, command=f"bench/gate_real.py: {kind.name}", timed=METRICS, unchanged=True)
        disturbed = burning(repository) if kind.burner else contextlib.nullcontext()
        with contextlib.chdir(repository), disturbed:
            result = compare("base", order, repository / "results", [], lambda text: None)
        # A gate that a key ended answers as one that was out of time does; it is no evidence of anything.
        if any(doubt.startswith("interrupted") for doubt in result.raw.warnings):
            raise KeyboardInterrupt
        rawfile.write(result.raw, path)
        verdicts = ", ".join(f"{f.metric} {f.verdict}{_change(f)}" for f in result.findings if not f.advisory)
        progress(f"{number} of {len(gates)}: {kind.name} {result.verdict} in {result.raw.seconds:.0f} s: {verdicts}")


def _change(finding: Finding) -> str:
    return f" {100 * finding.change.estimate:+.1f} %" if finding.change else ""


def read(folder: Path) -> dict[str, list[GateResult]]:
    """All gates of a folder, judged anew, by their kinds.

    Raises:
        FashiontlError: there is none, or one cannot be read.
    """
    today = datetime.now(UTC).date()
    found = {
        kind.name: [
            judge(whole(rawfile.read(path)), today=today) for path in sorted(folder.glob(f"{kind.name}-[0-9]*.json"))
        ]
        for kind in KINDS
    }
    found = {name: verdicts for name, verdicts in found.items() if verdicts}
    if not found:
        raise FashiontlError(f"expected gates in {folder}, got none; take some without --only-table")
    return found


def whole(raw: Raw) -> Raw:
    """A gate with what this script asks of every one: files of schema 1 do not state it."""
    commits = raw.base.commit, raw.head.commit
    return raw if raw.asked else structs.replace(raw, asked=stated(raw.cells, PRESETS["quick"], commits, timed=METRICS))


def tabulated(found: dict[str, list[GateResult]], amounts: Calibration) -> str:
    """Words by kind, of each metric and of the whole gates, as Markdown."""
    rows = []
    for name, results in found.items():
        for metric in (*METRICS, "whole gate"):
            findings = [f for each in results for f in each.findings if f.metric == metric and not f.advisory]
            whole = metric == "whole gate"
            verdicts = Counter(each.verdict for each in results) if whole else Counter(f.verdict for f in findings)
            changes = [f.change.estimate for f in findings if f.change]
            trials = [sum(f.trials) for f in findings]
            amount = amounts.get(name, {}).get(metric)
            rows.append((
                name, metric, _percent(amount.achieved if amount else None), f"{verdicts.total()}",
                *(f"{verdicts[verdict]}" for verdict in VERDICTS),
                f"{sum(verdicts[verdict] for verdict in verdicts if verdict not in VERDICTS)}",
                _percent(statistics.median(changes) if changes else None),
                f"{statistics.median(trials):g}" if trials else "—",
                f"{statistics.median(each.raw.seconds for each in results):.0f}" if whole else "—",
            ))  # fmt: skip
    header = (
        "kind", "verdict on", "head slower, calibrated", "n", "FAIL", *VERDICTS[1:], "other", "median change",
        "median trials", "median seconds",
    )  # fmt: skip
    return tabulate(rows, headers=header, tablefmt="pipe", disable_numparse=True, colalign=("left", "left"))


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:+.1f} %"


def conditions(raws: Sequence[Raw]) -> str:
    """Cells, machines and versions of all gates, a line each."""
    lines = {
        f"{', '.join(raw.cells)} on {raw.machine}: {raw.environment['cpu']}, {raw.environment['usable_cores']} cores, "
        f"{raw.environment['threads']} threads an arm, Python {raw.environment['python']}, "
        f"torch {raw.environment['torch']}, {raw.environment['os']}": None
        for raw in raws
    }
    loads = [load for raw in raws if isinstance(load := raw.environment["load"], float)]
    told = f"Load average at the end of the gates: median {statistics.median(loads):g}." if loads else ""
    return "\n".join([*(f"{line}." for line in lines), told]).rstrip()


def errors(found: dict[str, list[GateResult]]) -> list[str]:
    """What must not be: unchanged code that fails, and a slowdown of 10 % that passes, even in one metric."""
    failed = [v for v in found.get("aa", []) if EXIT_CODES[v.verdict] and v.verdict != "INCONCLUSIVE"]
    passed = [
        finding
        for result in found.get("planted-10", [])
        for finding in result.findings
        if not finding.advisory and not finding.is_bad
    ]
    said = [f"{len(failed)} gates of unchanged code failed"] if failed else []
    return said + ([f"{len(passed)} slowdowns of 10 % passed"] if passed else [])


def calibration(folder: Path) -> Calibration:
    """What was calibrated for the gates of a folder; nothing where there is no such file."""
    path = folder / CALIBRATION
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {name: {metric: Amount(**one) for metric, one in amounts.items()} for name, amounts in kept.items()}


def measure(options: argparse.Namespace, compare: Compare, progress: Callable[[str], None]) -> None:
    """Take the gates that are asked for and not there yet.

    Raises:
        FashiontlError: the folder holds gates and `--resume` was not given, or as `compare`.
    """
    folder: Path = options.json
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not options.resume:
        raise FashiontlError(f"expected an empty folder, got gates in {folder}; add to them with --resume")
    counts = {k.name: options.burner if k.burner else options.planted if k.planted else options.aa for k in KINDS}
    gates = wanted(counts, folder)
    case = Case(f"{options.arch}_extra", "full", weights="none")
    settings = changed(PRESETS["quick"], threads=1, seconds=options.seconds, throughput_batch=options.batch)
    with tempfile.TemporaryDirectory(prefix="fashiontl-gates-") as temporary:
        repository = Path(temporary).resolve() / "project"
        make_repository(repository, options.arch)
        amounts = calibration(folder)
        if not amounts and any(kind.planted for kind, _ in gates):
            slower = measured(repository / MODULE, case, settings, options.calibrate)
            amounts = calibrate(slower, progress)
            (folder / CALIBRATION).write_text(
                json.dumps({name: {m: asdict(one) for m, one in each.items()} for name, each in amounts.items()})
            )
        take(gates, repository, case, settings, amounts, compare=compare, progress=progress)


def main(arguments: Sequence[str] | None = None, compare: Compare | None = None) -> int:
    """Take gates, print the table; 1 when unchanged code failed or a slowdown of 10 % passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aa", type=int, default=30, metavar="N", help="gates of unchanged code (30)")
    parser.add_argument("--planted", type=int, default=10, metavar="N", help="gates of each slowdown (10)")
    parser.add_argument("--burner", type=int, default=10, metavar="N", help="gates beside a disturbance (10)")
    parser.add_argument("--arch", choices=sorted(CHANNELS), default="resnet18", help="the network (resnet18)")
    parser.add_argument("--batch", type=int, default=4, help="images a training step (4)")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="half of an arm's longest warm-up in a trial (0.25)"
    )
    parser.add_argument("--calibrate", type=float, default=4.0, help="seconds a measurement of the extra work (4)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table there too")
    parser.add_argument("--json", type=Path, required=True, metavar="DIR", help="keep each gate's raw numbers there")
    parser.add_argument("--resume", action="store_true", help="take only the gates that DIR lacks")
    parser.add_argument("--only-table", action="store_true", help="judge the gates in DIR anew and take none")
    options = parser.parse_args(arguments)
    if compare is None:
        from fashiontl.gate.commands import compare
    try:
        if not options.only_table:
            measure(options, compare, lambda text: print(text, file=sys.stderr, flush=True))
        found = read(options.json)
    except FashiontlError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; go on with --resume --json {options.json}", file=sys.stderr)
        return 130
    raws = [result.raw for verdicts in found.values() for result in verdicts]
    text = f"{tabulated(found, calibration(options.json))}\n\n{conditions(raws)}\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    said = errors(found)
    print("\n".join(said), file=sys.stderr, end="\n" if said else "")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
