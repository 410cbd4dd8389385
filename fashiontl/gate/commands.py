"""`fashiontl gate` and `fashiontl waive`: options in, a verdict and an exit code out. No torch."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from fashiontl.core.errors import INTERNAL, FashiontlError, internal_error, no_file, tell
from fashiontl.core.escape import to_terminal, to_terminal_line
from fashiontl.gate.result import EXIT_CODES, Explained, GateResult
from fashiontl.gate.waivers import Terms, add_waivers, read_waivers
from fashiontl.matrix.extensions import chosen
from fashiontl.matrix.options import AXES, CELL_OPTIONS, filled, filled_path, matrix, minutes
from fashiontl.reports.progress import ProgressText

if TYPE_CHECKING:
    from fashiontl.gate.runner import Order

# What a command prints, and its exit code.
Answer: TypeAlias = tuple[str, int]
Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_gate(commands: Parsers) -> None:
    """Declare `fashiontl gate`."""
    gate = commands.add_parser(
        "gate",
        help="is a change slower, larger or less accurate than its base?",
        description="Compare the working tree with a base, head to head on this machine; the exit code is the verdict.",
    )
    ways = gate.add_mutually_exclusive_group(required=True)
    ways.add_argument("--base", type=filled, metavar="REF", help="commit to compare with, such as origin/main")
    ways.add_argument("--replay", type=filled_path, metavar="FILE", help="judge again what --json wrote")
    ways.add_argument(
        "--plan",
        type=filled_path,
        metavar="FILE",
        help="from what --json wrote: which slowdown this machine detects, and in which time",
    )
    gate.add_argument(
        "--unchanged",
        action="store_true",
        help="compare even where the working tree is the base, to learn how far unchanged code scatters here",
    )
    cells = gate.add_argument_group("cells, as pytest bench/ takes them")
    for name, attributes in CELL_OPTIONS.items():
        cells.add_argument(name, **attributes)
    cells.add_argument(
        "--data-root", default=None, type=filled, metavar="DIR", help="folder with Fashion-MNIST's four files"
    )
    gate.add_argument("--accuracy", action="store_true", help="train and test in both arms too, with paired seeds")
    gate.add_argument(
        "--budget", type=minutes, default=0.0, metavar="MINUTES", help="stop taking trials then (no limit)"
    )
    reports = gate.add_argument_group("reports")
    reports.add_argument("--json", type=filled_path, metavar="FILE", help="all that was measured, for --replay")
    reports.add_argument("--markdown", type=filled_path, metavar="FILE", help="a comment for a pull request")
    reports.add_argument("--junit", type=filled_path, metavar="FILE", help="JUnit XML")
    reports.add_argument(
        "--inconclusive", choices=("fail", "warn"), default="fail", help="whether INCONCLUSIVE exits 10 or 0 (fail)"
    )
    add_results(gate)
    gate.set_defaults(run=_gate, default_of=gate.get_default)


def add_waive(commands: Parsers) -> None:
    """Declare `fashiontl waive`."""
    waive = commands.add_parser("waive", help="accept an intended regression, for a reason and a time")
    waive.add_argument("--cell", required=True, action="append", help="id of a cell; repeat it for several")
    waive.add_argument("--metric", required=True, help="metric, or '*' for a cell that is gone or crashes")
    waive.add_argument(
        "--ceiling", required=True, type=_ceiling, help="largest change that passes, in %%, of accuracy in points"
    )
    waive.add_argument("--owner", required=True, help="who answers for it")
    waive.add_argument("--reason", required=True, help="why it is accepted")
    waive.add_argument("--expires", required=True, type=_day, help="last day, YYYY-MM-DD, at most 90 days from now")
    add_results(waive)
    waive.set_defaults(run=_waive)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Declare the folder of the results."""
    parser.add_argument(
        "--results", default="results", type=filled_path, metavar="DIR", help="folder of the results (results)"
    )


def _ceiling(text: str) -> float:
    try:
        return float(text.removesuffix("%").removesuffix("points"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, in % or of accuracy in points, got {text!r}") from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a date such as 2027-01-31, got {text!r}") from None


def _waive(options: argparse.Namespace) -> Answer:
    terms = [
        Terms(cell, options.metric, options.ceiling, options.owner, options.reason, _today(), options.expires)
        for cell in dict.fromkeys(options.cell)
    ]
    made = add_waivers(options.results, _today(), terms)
    return "\n".join(to_terminal_line(f"{waiver.path}: commit it with the change that it covers") for waiver in made), 0


def _gate(options: argparse.Namespace) -> Answer:
    if options.base is None:
        # Without measuring they would be dropped in silence.
        names = (*AXES, "data_root", "preset", "set", "fashiontl_plugin", "accuracy", "budget", "unchanged")
        idle = [name for name in names if getattr(options, name) != options.default_of(name)]
        if idle:
            way = "--replay" if options.replay is not None else "--plan"
            raise FashiontlError(
                f"expected {', '.join(f'--{name}'.replace('_', '-') for name in idle)} beside --base, which measures, "
                f"got {way}, which judges all that its file has; leave out what measures"
            )
    check_reports({f"--{name}": getattr(options, name) for name in ("json", "markdown", "junit")})
    if options.base is not None:
        return _head_to_head(options)
    return _replay(options) if options.replay is not None else _plan(options)


def check_reports(files: Mapping[str, Path | None]) -> None:
    """Find out before anything is measured that reports can be written.

    Args:
        files: by the options that name them.

    Raises:
        FashiontlError: lists those that cannot.
    """
    from fashiontl.core.files import check_folder

    errors = []
    options: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        kind = no_file(path)
        # What is renamed to a device's name takes its place.
        if kind or path.absolute().parent == Path("/dev"):
            errors.append(
                f"expected a file for a report, got the {(kind or 'a device')[2:]} {path}; name another with {option}"
            )
        if (other := options.setdefault(path.absolute(), option)) != option:
            errors.append(f"expected a file for each report, got {path} for {other} and {option}; name another")
        try:
            check_folder(path.parent, "a report", option)
        except FashiontlError as error:
            errors.append(str(error))
    if errors:
        raise FashiontlError("\n".join(errors))


def _head_to_head(options: argparse.Namespace) -> Answer:
    from fashiontl.gate.arm import IncomparableError
    from fashiontl.gate.runner import Order
    from fashiontl.runner.cell import command

    axes = {name: getattr(options, name) for name in AXES}
    data_root = options.data_root or ""
    cases, settings = matrix(axes, options.preset, options.set, data_root, chosen(options.fashiontl_plugin, Path.cwd()))
    asked = {"axes": axes, "preset": options.preset, "assignments": options.set, "data_root": data_root}
    budget = 60 * options.budget
    order = Order(cases, settings, options.accuracy, budget, asked, command(), unchanged=options.unchanged)
    try:
        with ProgressText() as progress:
            result = compare(options.base, order, options.results, options.fashiontl_plugin, progress)
    except IncomparableError as error:
        return to_terminal(f"{error.verdict}: {error}"), EXIT_CODES[error.verdict]
    return _answer(result, options)


def compare(
    base: str, order: "Order", results: Path, extensions: Sequence[str], progress: Callable[[str], None]
) -> GateResult:
    """Measure the working tree beside a base, judge by the waivers of `results`, and explain what got slower.

    Raises:
        FashiontlError: the base is what is in the working tree, or as `fashiontl.gate.runner.opened_gate`.
    """
    from fashiontl.gate.judge import judge
    from fashiontl.gate.runner import opened_gate
    from fashiontl.gate.trees import check_apart
    from fashiontl.runner.cell import cache_folder, check_cache

    check_cache()
    if not order.unchanged:
        check_apart(Path.cwd(), base)
    waivers, errors = read_waivers(results, _today())
    with opened_gate(
        base, order, folder=Path.cwd(), cache=cache_folder(), extensions=extensions, progress=progress
    ) as gate:
        raw = gate.measure()
        result = judge(raw, waivers, today=_today())
        regressed = [(finding.cell, finding.metric) for finding in result.findings if finding.verdict == "REGRESSED"]
        explained: tuple[Explained, ...] = ()
        warnings: tuple[str, ...] = ()
        try:
            explained, warnings = gate.explain(regressed)
        except FashiontlError as error:
            warnings = (f"not explained: {error}",)
        except Exception as error:  # the verdict stands whatever happens to its explanation
            warnings = (internal_error("explaining", error),)
    largest = tuple(sorted(explained, key=lambda one: one.base_seconds - one.head_seconds))
    return replace(result, explained=largest, notes=(*result.notes, *warnings, *errors))


def _replay(options: argparse.Namespace) -> Answer:
    from fashiontl.gate import raw
    from fashiontl.gate.judge import judge

    waivers, errors = read_waivers(options.results, _today())
    result = judge(raw.read(options.replay), waivers, today=_today())
    return _answer(replace(result, notes=(*result.notes, *errors)), options)


def _plan(options: argparse.Namespace) -> Answer:
    from fashiontl.gate import raw
    from fashiontl.gate.plan import plan, plan_text

    rows = plan(raw.read(options.plan))
    if not rows:
        raise FashiontlError(
            f"expected a gate with trials of a timed metric, got none in {options.plan}; take them with fashiontl gate "
            "--base HEAD --unchanged --json FILE"
        )
    return to_terminal(plan_text(rows)), 0


def _answer(result: GateResult, options: argparse.Namespace) -> Answer:
    """Write the reports that were asked for; what the terminal shows, and the exit code.

    What goes wrong with a report is printed on the standard error and changes no verdict; a defect of fashiontl changes
    only an exit code of 0, to 70.
    """
    from fashiontl.gate import report
    from fashiontl.gate.raw import to_json, write_file

    if result.verdict == "INCONCLUSIVE" and options.inconclusive == "warn":
        notes = (*result.notes, "INCONCLUSIVE is let pass (--inconclusive=warn)")
        result = replace(result, exit_code=0, notes=notes)

    def write(path: Path | None, make: Callable[[], bytes]) -> None:
        if path is not None:
            write_file(path, make())

    shown: list[str] = []
    # What was measured comes first: all others can be made of it again.
    works: list[Callable[[], None]] = [
        lambda: write(options.json, lambda: to_json(result.raw)),
        lambda: shown.append(report.terminal(result)),
        lambda: write(options.markdown, lambda: report.markdown(result).encode(errors="replace")),
        lambda: write(options.junit, lambda: report.junit(result).encode(errors="replace")),
        lambda: shown.append(report.write_github(result, os.environ)),
    ]
    code = result.exit_code
    for work in works:
        try:
            work()
        except FashiontlError as error:
            tell(f"fashiontl gate: {error}")
        except Exception as error:  # a report that cannot be made must not hide the verdict
            tell(internal_error("fashiontl gate", error))
            code = code or INTERNAL
    return "\n".join(filter(None, shown)) or f"{result.verdict}, exit code {result.exit_code}", code


def _today() -> date:
    return datetime.now(UTC).date()
