"""Errors as people at a command line read them: the one for bad input, and what is kept of those nobody foresaw."""

import os
import platform
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from fashiontl.core.escape import to_line, to_terminal

# EX_SOFTWARE of BSD's sysexits.h: a defect of this program, never a verdict and never bad input.
INTERNAL = 70


class FashiontlError(Exception):
    """Bad input or a missing resource; the message says what was expected, what was got, and the next step.

    Attributes:
        status: of a case in which it ends a phase.
        value: what was found out by then; out of a phase it is of the type that the phase returns, or None.
    """

    status: ClassVar[str] = "crashed"

    def __init__(self, message: str, value: Any = None) -> None:
        super().__init__(message)
        self.value = value


class SkippedError(FashiontlError):
    """What was asked for cannot be had here, and nothing is broken: a library, or a stage that a network lacks."""

    status = "skipped"


class DivergedError(FashiontlError):
    """Training left the numbers from which anything can be learned."""

    status = "diverged"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Describe an unknown name and the known ones nearest to it."""
    known = sorted(known)
    nearest = get_close_matches(name[:100], known, n=3, cutoff=0.5) or known[:8]
    return f"unknown {kind} {brief(name, 102)}; did you mean {', '.join(nearest)}? (fashiontl list shows all)"


def brief(value: object, most: int = 80) -> str:
    """What was got, for a message: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a huge number"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def unwritable(path: Path, error: OSError, next_step: str = "free it", what: str = "a file") -> str:
    """Describe what cannot be written."""
    return f"expected {what} that can be written, got {path}: {error.strerror}; {next_step}"


def user_path(text: str) -> Path:
    """A path as a person writes it, with `~` for a home; a FashiontlError where that or the path cannot exist."""
    try:
        if "\0" in text:
            raise FashiontlError(f"expected a path, got {text!r} with a NUL byte, which no path has; take it out")
        return Path(text).expanduser()
    except RuntimeError as error:
        raise FashiontlError(f"expected a path whose ~ is a known home, got {text!r}; write it in full") from error


def tell(text: str) -> None:
    """Print an error; where that cannot be, as on a closed stream, the exit code has to say it alone."""
    with suppress(OSError, ValueError):
        print(to_terminal(text), file=sys.stderr, flush=True)


def no_file(path: Path) -> str:
    """What a path is that exists and is no file to be read whole; empty for a file, and for nothing at all."""
    try:
        own, found = path.lstat().st_mode, path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says why
        return ""
    if stat.S_ISFIFO(own):
        return "a named pipe"
    # A pipe of the shell, `<(...)`, is a link to one, and is read.
    if stat.S_ISREG(found) or stat.S_ISFIFO(found):
        return ""
    return "a folder" if stat.S_ISDIR(found) else "a device or socket"


def explain(what: str, error: Exception) -> tuple[str, int]:
    """One message for an error, and the exit code: 2 for bad input and paths that the system refuses, 70 for a defect.

    `what` was being done, such as `fashiontl gate`.
    """
    if isinstance(error, FashiontlError):
        return f"{what}: {error}", 2
    if isinstance(error, OSError) and error.filename is not None:
        text = f"expected a path that can be used, got {error.filename}: {error.strerror}"
        return f"{what}: {text}; free it, or name another", 2
    return internal_error(what, error), INTERNAL


def internal_error(what: str, error: BaseException) -> str:
    """Save the traceback of an unexpected error to a file; one line that names the error and the file."""
    # Also of an error whose message cannot be made.
    kind = to_line("".join(traceback.format_exception_only(error)), 250)
    saved = _saved_report(what, error)
    place = f"the full report is in {saved}" if saved else "no folder could be written for the full report"
    return f"{what}: internal error {kind}; this is a defect of fashiontl, please report it: {place}"


def _saved_report(what: str, error: BaseException) -> Path | None:
    """The report's file, in the first of the user's and the system's folders that can be written."""
    import platformdirs

    from fashiontl import __version__

    now = datetime.now(UTC)
    lines = [
        f"{what}, fashiontl {__version__}, Python {sys.version.split()[0]}, {platform.platform()}",
        f"{now.isoformat(timespec='seconds')}, process {os.getpid()}, arguments {sys.argv[1:]!r}",
        "",
        *traceback.format_exception(error),
    ]
    contents = "\n".join(lines).encode(errors="backslashreplace")
    for folder in (platformdirs.user_state_path("fashiontl"), Path(tempfile.gettempdir())):
        path = folder / f"crash-{now:%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}.txt"
        try:
            # Without a home, the user's folder is relative, and would be made wherever the command was typed.
            if folder.is_absolute():
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
                return path
        except OSError:
            continue
    return None
