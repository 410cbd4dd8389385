"""The one exception whose message is written for the person at the command line."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar


class FashiontlError(Exception):
    """Bad input or a missing resource; the message says what was expected, what was got, and the next step.

    Attributes:
        status: of a case in which it ends a phase, as in `fashiontl.worker.Outcome`.
        value: what the phase had found out by then, as it would have returned it.
    """

    status: ClassVar[str] = "crashed"

    def __init__(self, message: str, value: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.value = value or {}


class SkippedError(FashiontlError):
    """What was asked for cannot be had here, and nothing is broken: a library, or a stage that a network lacks."""

    status = "skipped"


class DivergedError(FashiontlError):
    """Training left the numbers from which anything can be learned."""

    status = "diverged"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Describe an unknown name and the known ones nearest to it.

    >>> unknown_name("policy", "linear_prob", ["linear_probe", "full"])
    "unknown policy 'linear_prob'; did you mean linear_probe? (fashiontl list shows all)"
    """
    known = sorted(known)
    name = name if len(name) <= 100 else f"{name[:99]}…"
    nearest = get_close_matches(name, known, n=3, cutoff=0.5) or known[:8]
    return f"unknown {kind} {name!r}; did you mean {', '.join(nearest)}? (fashiontl list shows all)"


def brief(value: object, most: int = 80) -> str:
    """What was got, for a message: as Python writes it, cut where it is long.

    >>> brief("abc"), brief("x" * 99, 8), brief(10**5000)
    ("'abc'", "'xxxxxx…", 'a huge number')
    """
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a huge number"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def unwritable(path: Path, error: OSError, next_step: str = "free it", what: str = "a file") -> str:
    """Describe what cannot be written.

    >>> unwritable(Path("out.json"), IsADirectoryError(21, "Is a directory"))
    'expected a file that can be written, got out.json: Is a directory; free it'
    """
    return f"expected {what} that can be written, got {path}: {error.strerror}; {next_step}"
