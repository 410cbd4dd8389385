"""The command line: what is here, what this box can measure, where a case's time goes, and the leaderboard.

The matrix itself is run by `pytest bench/`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from fashiontl import __version__
from fashiontl.core.errors import FashiontlError, explain, tell, unwritable
from fashiontl.core.escape import to_terminal, to_terminal_json, to_terminal_line
from fashiontl.gate.commands import add_gate, add_results, add_waive
from fashiontl.matrix.options import AXES, CELL_OPTIONS, filled, processes, whole
from fashiontl.reports.progress import ProgressText

# What a command prints, and its exit code.
_Answer = tuple[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 1 where the box cannot measure or a case cannot be profiled; 2 for bad input, and where the
        answer could not be printed; of the gate that of its verdict, whatever happens to its output; 70 for a defect of
        fashiontl; 130 after an interrupt.
    """
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What a terminal cannot encode must not make printing fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return 130  # what shells say of a program that SIGINT ended
    finally:
        # What a stream still holds is written when Python ends, where a failure would change the exit code.
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:  # an extension can take it away
                    stream.flush()
            except (OSError, ValueError):
                _discard(stream)


def _main(arguments: Sequence[str] | None) -> int:
    name = "fashiontl"
    try:
        options = _parser().parse_args(arguments)
        name = f"fashiontl {options.command}"
        try:
            Path.cwd()
        except OSError as error:
            raise FashiontlError(
                f"expected a current folder that exists, got one that is gone ({error.strerror}); change to another"
            ) from error
        text, code = options.run(options)
    except Exception as error:  # the last resort: what is foreseen has a message of its own
        message, code = explain(name, error)
        tell(message)
        return code
    if failure := _print(text):
        tell(f"{name}: {failure}")
    return code or 2 * bool(failure and options.command != "gate")


def _open_missing_streams() -> None:
    """Open empty streams in a program that was started without."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:
            # The first file to be opened would otherwise become the output of every process that is started.
            with suppress(OSError):
                descriptor = os.open(os.devnull, os.O_RDWR)
                os.set_inheritable(descriptor, True)
                if descriptor > number:
                    os.close(descriptor)
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 as long as the process


def _print(text: str) -> str:
    """Print an answer; why that failed, and nothing where it did not or where the reader, such as head, has enough."""
    try:
        if text:
            print(text, flush=True)
    except BrokenPipeError:
        _discard(sys.stdout)
    except (OSError, ValueError) as error:
        _discard(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        return f"expected an output that can be written, got: {reason}; free it, or send the output elsewhere"
    return ""


def _discard(stream: TextIO) -> None:
    """Let a stream end in nothing, so that Python's own flush at exit does not fail either."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # It repeats arguments as they were given.
        super().error(to_terminal_line(message))


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="fashiontl",
        description="Benchmarks for transfer learning in PyTorch. The matrix is run by: pytest bench/",
    )
    parser.add_argument("--version", action="version", version=f"fashiontl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="every axis of the matrix: what is here, what is not, and why")
    listing.add_argument(
        "--data-root", default=None, type=filled, metavar="DIR", help="folder with Fashion-MNIST's four files"
    )
    listing.set_defaults(run=_list)
    doctor = commands.add_parser("doctor", help="whether this box can measure, how finely, and what is missing")
    doctor.add_argument(
        "--device", default=None, type=filled, metavar="NAMES", help="devices between commas (all that are seen)"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON, numbers raw and in base units")
    doctor.add_argument(
        "--processes", default=4, type=processes, metavar="N", help="of each side of the same network (4: a minute)"
    )
    doctor.set_defaults(run=_doctor)
    profile = commands.add_parser("profile", help="where the time of a cell's training step goes")
    for name, attributes in CELL_OPTIONS.items():
        profile.add_argument(name, **attributes)
    profile.add_argument("--top", default=15, type=whole, metavar="N", help="operators to show (15)")
    add_results(profile)
    profile.add_argument("--json", action="store_true", help="print JSON, numbers raw and in base units")
    profile.set_defaults(run=_profile)
    board = commands.add_parser("leaderboard", help="write results/leaderboard.md from all runs")
    add_results(board)
    board.set_defaults(run=_leaderboard)
    for command in (listing, board):
        command.add_argument("--fashiontl-plugin", **CELL_OPTIONS["--fashiontl-plugin"])
    add_gate(commands)
    add_waive(commands)
    return parser


def _list(options: argparse.Namespace) -> _Answer:
    from fashiontl.matrix import extensions
    from fashiontl.reports.listing import listing

    extensions.load(extensions.chosen(options.fashiontl_plugin, Path.cwd()))
    return listing(options.data_root or ""), 0


def _doctor(options: argparse.Namespace) -> _Answer:
    from fashiontl.core.errors import unknown_name
    from fashiontl.doctor import equipment, examine, to_json, to_text
    from fashiontl.machine.devices import DEVICES, Device, is_device, seen_devices
    from fashiontl.runner.cell import check_cache
    from fashiontl.runner.client import Worker

    names = [name.strip() for name in options.device.split(",")] if options.device else seen_devices()
    if errors := [unknown_name("device", name, DEVICES) for name in names if not is_device(name)]:
        raise FashiontlError("\n".join(errors))
    devices = dict.fromkeys(Device.of(name) for name in names)
    check_cache()
    with Worker() as worker, ProgressText() as progress:
        reports = [examine(worker, device, progress, options.processes) for device in devices]
        sections = equipment(worker, Path("results"), progress)
    text = (to_json if options.json else to_text)(reports, sections)
    return text, 0 if all(report.fit for report in reports) else 1


def _profile(options: argparse.Namespace) -> _Answer:
    from fashiontl.core.files import check_folder
    from fashiontl.machine.devices import Device
    from fashiontl.machine.locks import alone_on
    from fashiontl.matrix.extensions import chosen
    from fashiontl.matrix.options import as_timed, matrix
    from fashiontl.runner.cell import cache_folder, check_cache
    from fashiontl.runner.client import Worker, why_unavailable
    from fashiontl.runner.messages import DEVICE, PROFILE, VARIANT, CaseJob, DeviceJob

    extensions = tuple(chosen(options.fashiontl_plugin, Path.cwd()))
    axes = {name: getattr(options, name) for name in AXES}
    cases, settings = matrix(axes, options.preset, options.set, extensions=extensions)
    if len(cases) > 1:
        raise FashiontlError(
            f"expected options that name one cell, got {len(cases)}: {', '.join(case.id for case in cases[:3])}, ...; "
            "name one architecture, policy and device, as in --arch resnet18 --policy full --device cpu"
        )
    case = cases[0]
    said = [case.id]
    if as_timed(case) != case:
        said.append(f"weights none in place of {case.weights}, which would have to be trained first: as fast")
        case = as_timed(case)
    traces = options.results / "traces" / "profile" / case.file_name
    check_cache()
    check_folder(traces, "the trace", "--results")
    job = CaseJob(case, settings, extensions=extensions, traces=str(traces))
    with Worker(settings.threads) as worker, ProgressText() as progress:
        device = worker.run(DEVICE, DeviceJob(case.device, extensions), settings.timeout, progress)
        if reason := why_unavailable(device):
            return _unprofiled(case.id, reason)
        variant = worker.run(VARIANT, job, settings.timeout, progress)
        if reason := why_unavailable(variant):
            return _unprofiled(case.id, reason)
        said += variant.found().warnings
        progress(f"waiting for {case.device}")
        with alone_on(Device.of(case.device), cache_folder()):
            outcome = worker.run(PROFILE, job, settings.timeout, progress)
    if outcome.status != "ok":
        return _unprofiled(case.id, outcome.reason)
    return _profiled(options, said, outcome.found().provenance["profile"]), 0


def _unprofiled(case_id: str, reason: str) -> _Answer:
    tell(f"fashiontl profile: {case_id}: {reason}")
    return "", 1


def _profiled(options: argparse.Namespace, said: Sequence[str], values: dict[str, Any]) -> str:
    from fashiontl.profiling.operators import from_dict, top

    if options.json:
        return to_terminal_json({"case": said[0], "notes": said[1:], "profile": values})
    profile = from_dict(values)
    lines = [*said, *profile.warnings, "", f"{profile.steps} training steps; shares are of their operators' own time"]
    lines += [top(profile, options.top), ""]
    if profile.device_idle is not None:
        lines.append(f"device idle  {profile.device_idle:.0%} of the time, at most: the profiler slows the host down")
    if profile.trace is not None:
        lines += [
            f"trace        {profile.trace}",
            "open it      in https://ui.perfetto.dev, or with torch-tb-profiler: "
            f"tensorboard --logdir {Path(profile.trace).parent}",
        ]
        if profile.kernels:
            lines.append(
                f"             or with HolisticTraceAnalysis: TraceAnalysis(trace_dir='{Path(profile.trace).parent}')"
            )
    return to_terminal("\n".join(lines))


def _leaderboard(options: argparse.Namespace) -> _Answer:
    from fashiontl.matrix import extensions
    from fashiontl.reports.leaderboard.page import write

    extensions.load(extensions.chosen(options.fashiontl_plugin, Path.cwd()))
    try:
        path = write(options.results, lambda error: tell(f"fashiontl leaderboard: warning: {error}"))
        return to_terminal_line(str(path)), 0
    except OSError as error:
        step = "free it, or name another folder with --results"
        raise FashiontlError(unwritable(options.results / "leaderboard.md", error, step)) from error


if __name__ == "__main__":
    sys.exit(main())
