"""The end of a run on pytest's terminal: what was measured, where it is, and what went wrong on the way."""

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import to_terminal


def write_summary(reporter: Any, path: Path, results: Path, said: Iterable[str]) -> None:
    """Write the summary and the leaderboard. The records are saved by now, so an error of either is a line more.

    Args:
        reporter: pytest's terminal reporter.
        path: of the run's file.
        results: folder of the results.
        said: messages to repeat.
    """
    from fashiontl.records import read_file
    from fashiontl.reports.leaderboard.page import summary, write

    def line(text: str, **markup: bool) -> None:
        for each in to_terminal(text).split("\n"):
            reporter.write_line(each, **markup)

    def attempt(what: str, do: Callable[[], object]) -> None:
        try:
            do()
        except (OSError, FashiontlError) as error:
            line(f"{what}: {error}", red=True)
        except Exception as error:  # a defect, which must hide neither the path of the records nor the exit code
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            line(f"{what}: {type(error).__name__}: {error} ({where}); it is a defect of fashiontl", red=True)

    reporter.section("fashiontl")
    records, own = read_file(path)
    for each in (*said, *own):
        line(each, yellow=True)
    attempt("the summary could not be made", lambda: line(summary(records)))
    line(f"\nrecords      {path}")
    errors: list[str] = []
    attempt("the leaderboard was not written", lambda: line(f"leaderboard  {write(results, errors.append)}"))
    if others := len(set(errors) - set(own)):
        line(f"{others} line{'s' * (others > 1)} of other runs left out; fashiontl leaderboard says why", yellow=True)
