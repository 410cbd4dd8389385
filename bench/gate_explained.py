"""What the gate's explanation names: a real gate whose head does more in one module of a network, and nowhere else.

`python bench/gate_explained.py` plants convolutions in the first stage that slow a pass by 10 %, compares, and prints
as Markdown what the gate says of the slowdown and in which operators and modules it finds it.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gate_planted import CHANNELS, MODULE, Amount, fit, make_repository, measured, nets
from gate_real import METRICS, conditions
from tabulate import tabulate

from fashiontl.core.case import PRESETS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.gate.result import GateResult

OPERATOR = "conv"


def planted(architecture: str) -> str:
    """The module that `gate_planted` appends to the first stage."""
    from fashiontl.models.build import build

    return f"stage1.{len(build(architecture, 10, image_size=PRESETS['quick'].image_size).stages['stage1'])}"


def gated(
    options: argparse.Namespace, compare: Callable[..., GateResult], progress: Callable[[str], None]
) -> tuple[GateResult, dict[str, Amount]]:
    """One gate of the planted slowdown, and how large each metric's was measured to be."""
    from fashiontl.gate.runner import Order

    case = Case(f"{options.arch}_extra", "full", weights="none")
    settings = replace(PRESETS["quick"], threads=1, seconds=options.seconds, throughput_batch=options.batch)
    with tempfile.TemporaryDirectory(prefix="fashiontl-gates-") as temporary:
        repository = Path(temporary).resolve() / "project"
        make_repository(repository, options.arch)
        slower = measured(repository / MODULE, case, settings, options.calibrate)
        amounts = {metric: fit(lambda calls, m=metric: slower(m, calls), options.share) for metric in METRICS}
        progress(f"calibrated: {amounts}")
        (repository / MODULE).write_text(
            nets(options.arch, amounts["train_throughput"].calls, amounts["latency"].calls)
        )
        order = Order(
            [case],
            settings,
            command=f"bench/gate_explained.py --share {options.share:g}",
            timed=METRICS,
            unchanged=True,
        )
        with contextlib.chdir(repository):
            return compare("base", order, repository / "results", [], progress), amounts


def tabulated(result: GateResult, amounts: dict[str, Amount]) -> str:
    """What the gate found, and what the explanation names for it, as Markdown."""
    changes = [
        (
            finding.metric,
            f"{100 * amounts[finding.metric].achieved:+.1f} %",
            finding.verdict,
            f"{100 * finding.change.estimate:+.1f} %" if finding.change else "—",
            " + ".join(str(count) for count in finding.trials),
        )
        for finding in result.findings
        if finding.metric in amounts and not finding.advisory
    ]
    named = [
        (
            each.metric, each.operator, each.module or "—", f"{1e3 * each.base_seconds:.2f}",
            f"{1e3 * each.head_seconds:.2f}", f"{100 * each.share:.0f} %",
        )
        for each in sorted(result.explained, key=lambda each: (METRICS.index(each.metric), -each.share))
    ]  # fmt: skip
    tables = (
        (changes, ("metric", "planted, calibrated", "verdict", "change", "trials")),
        (named, ("metric", "operator", "module", "base (ms a step)", "head (ms a step)", "share of the growth")),
    )
    return "\n\n".join(
        tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=("left", "left")) if rows else "—"
        for rows, header in tables
    )


def errors(result: GateResult, module: str) -> list[str]:
    """Metrics whose slowdown was not found, or is explained by something else first."""
    found = []
    for metric in METRICS:
        verdicts = {finding.verdict for finding in result.findings if finding.metric == metric and not finding.advisory}
        named = max((e for e in result.explained if e.metric == metric), key=lambda e: e.share, default=None)
        if verdicts != {"REGRESSED"}:
            found.append(f"{metric}: expected REGRESSED, which is explained, got {', '.join(verdicts) or 'nothing'}")
        elif named is None or named.module != module or OPERATOR not in named.operator:
            got = f"{named.operator} in {named.module or 'no module'}" if named else "nothing"
            found.append(f"{metric}: expected a convolution in {module} to have grown most, got {got}")
    return found


def main(arguments: Sequence[str] | None = None, compare: Callable[..., GateResult] | None = None) -> int:
    """Take one gate, print both tables; 1 when a slowdown was not found, or not where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=sorted(CHANNELS), default="resnet18", help="the network (resnet18)")
    parser.add_argument("--share", type=float, default=0.10, help="how much slower the head is (0.10)")
    parser.add_argument("--batch", type=int, default=4, help="images a training step (4)")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="half of an arm's longest warm-up in a trial (0.25)"
    )
    parser.add_argument("--calibrate", type=float, default=4.0, help="seconds a measurement of the extra work (4)")
    options = parser.parse_args(arguments)
    if compare is None:
        from fashiontl.gate.commands import compare
    try:
        result, amounts = gated(options, compare, lambda text: print(text, file=sys.stderr, flush=True))
    except FashiontlError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{tabulated(result, amounts)}\n\nTaken on {result.raw.started[:10]}: {conditions([result.raw])}")
    said = errors(result, planted(options.arch))
    print("\n".join([*result.notes, *said]), file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
