"""`fashiontl gate` and `fashiontl baseline`: options in, a verdict and an exit code out. No torch."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fashiontl.errors import FashiontlError, unwritable
from fashiontl.escape import to_terminal, to_terminal_line
from fashiontl.extensions import chosen
from fashiontl.gate.verdict import EXIT_CODES, Verdict
from fashiontl.gate.waivers import add_waiver, read_waivers
from fashiontl.options import AXES, Axes, matrix
from fashiontl.progress import ProgressText

if TYPE_CHECKING:
    from fashiontl.gate.runner import Order

# What a command prints, and its exit code.
Answer: TypeAlias = tuple[str, int]
Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_WAIVER = {
    "cell": "id of a cell, or a pattern such as 'resnet18-*'",
    "metric": "metric, or '*'",
    "owner": "who answers for it",
    "reason": "why it is meant",
    "expires": "last day, YYYY-MM-DD, at most 90 days from now",
}


def add_gate(commands: Parsers) -> None:
    """Declare `fashiontl gate`."""
    gate = commands.add_parser(
        "gate",
        help="is a change slower, larger or less accurate than its base?",
        description="Compare the working tree with a base, head to head on this machine; the exit code tells the end.",
    )
    gate.add_argument("--base", metavar="REF", help="commit to compare with, such as origin/main")
    cells = gate.add_argument_group("cells, as pytest bench/ takes them")
    for name, title in AXES.items():
        cells.add_argument(
            f"--{name.replace('_', '-')}", dest=name, action="append", default=[], metavar="NAMES", help=title
        )
    cells.add_argument("--data-root", default="", metavar="DIR", help="folder with Fashion-MNIST's four files")
    cells.add_argument("--preset", default="quick", metavar="NAME", help="settings (quick)")
    cells.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override one setting")
    cells.add_argument("--fashiontl-plugin", action="append", default=[], metavar="MODULE_OR_FILE")
    gate.add_argument("--accuracy", action="store_true", help="train and test in both arms too, with paired seeds")
    gate.add_argument("--budget", type=float, default=0.0, metavar="MINUTES", help="stop taking epochs then (no limit)")
    add_stored(gate)
    add_reports(gate)
    add_results(gate)
    gate.set_defaults(run=_gate)


def _gate(options: argparse.Namespace) -> Answer:
    ways = {"--base": _head_to_head, "--stored": stored, "--replay": replayed, "--plan": _planned}
    given = [way for way in ways if getattr(options, way.removeprefix("--"))]
    if len(given) != 1:
        raise FashiontlError(
            "expected one of --base REF, --stored, --replay FILE and --plan FILE, got "
            f"{' and '.join(given) or 'none'}; --base origin/main compares the working tree with that commit"
        )
    if options.run_file and not options.stored:
        raise FashiontlError(
            f"expected --run FILE beside --stored, which judges that run, got {given[0]}; leave it out"
        )
    return ways[given[0]](options)


def _head_to_head(options: argparse.Namespace) -> Answer:
    from fashiontl.gate.arm import IncomparableError
    from fashiontl.gate.runner import Order
    from fashiontl.measure import command

    axes = {name: getattr(options, name) for name in AXES}
    cases, settings = matrix(
        Axes(**axes), options.preset, options.set, options.data_root, chosen(options.fashiontl_plugin, Path.cwd())
    )
    asked = {
        "axes": axes, "preset": options.preset, "assignments": options.set, "data_root": options.data_root,
    }  # fmt: skip
    order = Order(cases, settings, options.accuracy, 60 * options.budget, asked, command())
    check_reports({f"--{name}": getattr(options, name) for name in ("json", "markdown", "junit")})
    try:
        with ProgressText() as progress:
            verdict = compare(options.base, order, options.results, options.fashiontl_plugin, progress)
    except IncomparableError as error:
        return to_terminal(f"{error.word}: {error}"), EXIT_CODES[error.word]
    return answer(verdict, options)


def compare(
    base: str, order: "Order", results: Path, extensions: Sequence[str], progress: Callable[[str], None]
) -> Verdict:
    """Measure the working tree beside a base, judge, and explain what got slower.

    Args:
        base: a commit.
        order: what is asked for.
        results: folder with the waivers.
        extensions: besides those that the trees name themselves.
        progress: called with what is being done.

    Raises:
        FashiontlError: as `fashiontl.gate.runner.opened_gate`.
    """
    from fashiontl.gate.judge import judge
    from fashiontl.gate.runner import opened_gate
    from fashiontl.measure import cache_folder, check_cache

    check_cache()
    waivers, told = read_waivers(results)
    with opened_gate(
        base, order, folder=Path.cwd(), cache=cache_folder(), extensions=extensions, progress=progress
    ) as gate:
        raw = gate.measure()
        verdict = judge(raw, waivers, today=_today())
        regressed = [(found.cell, found.metric) for found in verdict.findings if found.word == "REGRESSED"]
        explained, doubts = gate.explain(regressed)
    verdict = judge(raw, waivers, explained, today=_today())
    return replace(verdict, notes=(*verdict.notes, *doubts, *told))


def check_reports(files: Mapping[str, Path | None]) -> None:
    """Find out before anything is measured that reports can be written.

    Args:
        files: by the options that name them.

    Raises:
        FashiontlError: lists those that cannot.
    """
    from fashiontl.record import check_folder

    faults = []
    for option, path in files.items():
        if path is None:
            continue
        if path.is_dir():
            faults.append(f"expected a file for a report, got the folder {path}; name another with {option}")
        try:
            check_folder(path.parent, "a report", option)
        except FashiontlError as error:
            faults.append(str(error))
    if faults:
        raise FashiontlError("\n".join(faults))


def add_stored(gate: argparse.ArgumentParser) -> None:
    """Declare the ways to a verdict that measure nothing."""
    ways = gate.add_argument_group("without measuring")
    ways.add_argument("--stored", action="store_true", help="compare a run with stored baselines of this machine")
    ways.add_argument("--run", dest="run_file", type=Path, metavar="FILE", help="with --stored: the run (the newest)")
    ways.add_argument("--replay", type=Path, metavar="FILE", help="judge again what --json wrote")
    ways.add_argument(
        "--plan", type=Path, metavar="FILE", help="from what --json wrote: which slowdown this box finds in which time"
    )


def add_reports(gate: argparse.ArgumentParser) -> None:
    """Declare where a verdict goes besides the terminal."""
    reports = gate.add_argument_group("reports")
    reports.add_argument("--json", type=Path, metavar="FILE", help="all that was measured, for --replay")
    reports.add_argument("--markdown", type=Path, metavar="FILE", help="a comment for a pull request")
    reports.add_argument("--junit", type=Path, metavar="FILE", help="JUnit XML")
    reports.add_argument(
        "--inconclusive",
        choices=("fail", "warn"),
        default="fail",
        help="whether INCONCLUSIVE exits 10 or 0 (fail)",
    )


def add_waive(commands: Parsers) -> None:
    """Declare `fashiontl waive`."""
    waive = commands.add_parser("waive", help="let a change for the worse pass the gate, for a reason and a time")
    for name, text in _WAIVER.items():
        waive.add_argument(f"--{name}", required=True, help=text)
    add_results(waive)
    waive.set_defaults(run=_waive)


def add_baseline(commands: Parsers) -> None:
    """Declare `fashiontl baseline` with its actions."""
    baseline = commands.add_parser("baseline", help="runs that later ones of the same machine are compared with")
    actions = baseline.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="keep a run as a baseline")
    add.add_argument("--run", dest="run_file", type=Path, metavar="FILE", help="the run's file (the newest)")
    add.set_defaults(run=_baseline_add)
    listed = actions.add_parser("list", help="baselines by machine")
    listed.set_defaults(run=_baseline_list)
    show = actions.add_parser("show", help="numbers by cell and metric")
    show.add_argument("--machine", default="", metavar="KEY", help="of this machine alone")
    show.set_defaults(run=_baseline_show)
    prune = actions.add_parser("prune", help="remove the oldest; says what it would remove unless --yes")
    prune.add_argument("--keep", type=int, required=True, metavar="N", help="newest runs to keep of each machine")
    prune.add_argument("--yes", action="store_true", help="really remove them")
    prune.set_defaults(run=_baseline_prune)
    for action in (add, listed, show, prune):
        add_results(action)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Declare the folder of the results."""
    parser.add_argument(
        "--results", default="results", type=Path, metavar="DIR", help="folder of the results (results)"
    )


def stored(options: argparse.Namespace) -> Answer:
    """Judge a run by stored baselines."""
    from fashiontl.gate.baselines import newest_run, read_baselines
    from fashiontl.gate.stored import judge_stored
    from fashiontl.record import read_file

    path = options.run_file or newest_run(options.results)
    records, faults = read_file(path)
    if faults or not records:
        raise FashiontlError(
            "\n".join(faults) or f"expected a run with records, got {path}; measure with pytest bench/"
        )
    baselines, broken = read_baselines(options.results)
    waivers, told = read_waivers(options.results)
    verdict = judge_stored(records, baselines, waivers, today=_today())
    return answer(replace(verdict, notes=(*verdict.notes, *broken, *told)), options)


def replayed(options: argparse.Namespace) -> Answer:
    """Judge again what a gate measured."""
    from fashiontl.gate import rawfile
    from fashiontl.gate.judge import judge

    waivers, told = read_waivers(options.results)
    verdict = judge(rawfile.read(options.replay), waivers, today=_today())
    return answer(replace(verdict, notes=(*verdict.notes, *told)), options)


def _planned(options: argparse.Namespace) -> Answer:
    from fashiontl.gate import rawfile
    from fashiontl.gate.plan import plan, plan_text, spreads_of

    spreads = spreads_of(rawfile.read(options.plan))
    if not spreads:
        raise FashiontlError(
            f"expected a gate with epochs of a timed metric, got none in {options.plan}; take them with fashiontl gate "
            "--base HEAD --json FILE"
        )
    return to_terminal(plan_text(plan(spreads))), 0


def answer(verdict: Verdict, options: argparse.Namespace) -> Answer:
    """Write the reports that were asked for; what the terminal shows, and the exit code.

    Raises:
        FashiontlError: reports that could not be written; the others were, and the verdict stands in the message.
    """
    from fashiontl.gate import rawfile, report
    from fashiontl.record import write_atomically

    if verdict.word == "INCONCLUSIVE" and options.inconclusive == "warn":
        verdict = replace(
            verdict, exit_code=0, notes=(*verdict.notes, "INCONCLUSIVE is let pass (--inconclusive=warn)")
        )
    faults = []
    written: list[tuple[Path | None, Callable[[], str]]] = [
        (options.json, lambda: rawfile.to_json(verdict.raw) + "\n"),
        (options.markdown, lambda: report.markdown(verdict)),
        (options.junit, lambda: report.junit(verdict)),
    ]
    for path, text in written:
        if path is not None:
            try:
                write_atomically(path, text().encode(errors="replace"))
            except OSError as error:
                faults.append(unwritable(path, error))
    if faults:
        raise FashiontlError("\n".join([report.terminal(verdict), *faults]))
    shown = report.write_github(verdict, os.environ)
    return "\n".join(part for part in (report.terminal(verdict), shown) if part), verdict.exit_code


def _waive(options: argparse.Namespace) -> Answer:
    waiver = add_waiver(options.results, _today(), **{name: getattr(options, name) for name in _WAIVER})
    return to_terminal_line(f"{waiver.path}: commit it with the change that it covers"), 0


def _baseline_add(options: argparse.Namespace) -> Answer:
    from fashiontl.gate.baseline_commands import add

    return to_terminal(add(options.results, options.run_file)), 0


def _baseline_list(options: argparse.Namespace) -> Answer:
    from fashiontl.gate.baseline_commands import listed

    return to_terminal(listed(options.results)), 0


def _baseline_show(options: argparse.Namespace) -> Answer:
    from fashiontl.gate.baseline_commands import shown

    return to_terminal(shown(options.results, options.machine)), 0


def _baseline_prune(options: argparse.Namespace) -> Answer:
    from fashiontl.gate.baseline_commands import prune

    return to_terminal(prune(options.results, options.keep, yes=options.yes)), 0


def _today() -> date:
    return datetime.now(UTC).date()
