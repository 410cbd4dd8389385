"""The command line: what is here, and the leaderboard. The matrix itself is run by `pytest bench/`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fashiontl import __version__
from fashiontl.errors import FashiontlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options), flush=True)
    except BrokenPipeError:
        # The reader, such as head, has enough; Python's own flush at exit must not fail on it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FashiontlError as error:
        print(f"fashiontl {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fashiontl",
        description="Benchmarks for transfer learning in PyTorch. The matrix is run by: pytest bench/",
    )
    parser.add_argument("--version", action="version", version=f"fashiontl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="every axis of the matrix: what is here, what is not, and why")
    listing.add_argument("--data-root", default="", metavar="DIR", help="folder with Fashion-MNIST's four files")
    listing.add_argument(
        "--fashiontl-plugin",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="module that registers entries of your own, besides those that ./pyproject.toml names",
    )
    listing.set_defaults(run=_list)
    board = commands.add_parser("leaderboard", help="write results/leaderboard.md from all runs")
    board.add_argument("--results", default="results", type=Path, metavar="DIR", help="folder of the results (results)")
    board.set_defaults(run=_leaderboard)
    return parser


def _list(options: argparse.Namespace) -> str:
    from fashiontl.extensions import configured, load, located
    from fashiontl.listing import listing

    here = Path.cwd()
    load([*configured(here), *located(options.fashiontl_plugin, here)])
    return listing(options.data_root)


def _leaderboard(options: argparse.Namespace) -> str:
    from fashiontl.leaderboard import write

    try:
        return str(write(options.results, _warn))
    except OSError as error:
        raise FashiontlError(
            f"expected a file that can be written, got {options.results / 'leaderboard.md'}: {error.strerror}; "
            "free it, or name another folder with --results"
        ) from error


def _warn(fault: str) -> None:
    print(f"fashiontl leaderboard: warning: {fault}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
