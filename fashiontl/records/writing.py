"""The file of a run: written after each case and whole at every moment, whatever becomes of the process or the disk."""

import hashlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from fashiontl.core.errors import FashiontlError, unwritable
from fashiontl.core.files import check_folder, write_atomically
from fashiontl.machine.locks import locked
from fashiontl.records.record import FIRST_TIME, Record, to_json


def check_writable(results: Path) -> None:
    """Raise a FashiontlError unless results can be saved, and read: of records from before 2025 nobody does."""
    now = datetime.fromtimestamp(time.time(), UTC)
    if now < FIRST_TIME:
        raise FashiontlError(
            f"expected a clock that says {FIRST_TIME:%Y} or later, got {now:%Y-%m-%d}; set it, since the newest record "
            "of a cell counts"
        )
    for folder in (results, results / "runs"):
        check_folder(folder, "results", "--results DIR")


@dataclass(frozen=True)
class RunFile:
    """The file of one run, which the first record creates; processes may share it."""

    path: Path

    def append(self, record: Record) -> list[str]:
        """Add a record after a `repair`, and return the same; the file holds whole lines at every moment.

        Raises:
            FashiontlError: the file cannot be written; the record was saved elsewhere, and the message says where and
                how it gets into the file. Where no file can be written at all, the message holds the record.
        """
        try:
            line = to_json(record).encode() + b"\n"
        except (ValueError, TypeError, RecursionError) as error:
            # Whatever a phase left in its facts, what was measured is kept.
            reason = f"its provenance could not be written: {error}"
            kept = replace(record, proof=None, provenance={}, warnings=(*record.warnings, reason))
            line = to_json(kept).encode() + b"\n"
        try:
            with _one_writer(self.path):
                before, said = self._whole_lines()
                write_atomically(self.path, before + line)
        except OSError as error:
            raise FashiontlError(_saved_elsewhere(self.path, line, error)) from error
        return said

    def repair(self) -> list[str]:
        """Make whole what a killed process, a full disk or an editor left behind, so that a run can go on.

        A last line without its end gets it if it is whole; if it was cut off, it is moved to a file of its own beside
        the run's, `RUN.jsonl.broken-…`, which nothing reads; the answer says so.

        Raises:
            FashiontlError: the file cannot be read or written.
        """
        try:
            with _one_writer(self.path):
                before, said = self._whole_lines()
                if before and before != self.path.read_bytes():
                    write_atomically(self.path, before)
        except OSError as error:
            raise FashiontlError(unwritable(self.path, error, what="a run's file")) from error
        return said

    def _whole_lines(self) -> tuple[bytes, list[str]]:
        """What the file holds, each line with its end, once what was cut off has been moved aside."""
        before = self.path.read_bytes() if self.path.exists() else b""
        if not before or before.endswith(b"\n"):
            return before, []
        last = before.rpartition(b"\n")[2]
        with suppress(ValueError, RecursionError):
            json.loads(last)
            return before + b"\n", []
        aside = self.path.with_name(f"{self.path.name}.broken-{hashlib.sha256(last).hexdigest()[:8]}")
        write_atomically(aside, last)
        return before[: len(before) - len(last)], [
            f"{self.path}: its last line was cut off after {len(last):,} bytes; they are kept in {aside.name} and the "
            "case counts as not measured"
        ]


@contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    """A context in which no other process changes a run's file, as far as the system can see to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock is not beside the file, because it would be left in a folder that people commit.
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    with ExitStack() as stack:
        # Without a folder for temporary files, or with a full one, there is no lock: two writers at once may lose a
        # record, and giving up is certain to.
        with suppress(OSError):
            stack.enter_context(locked(Path(tempfile.gettempdir()) / f"fashiontl-{name}.lock"))
        yield


def _saved_elsewhere(path: Path, line: bytes, error: OSError) -> str:
    """Save the record of a run whose file cannot be written, and say where."""
    reason = unwritable(path, error, what="a run's file")
    for folder in (tempfile.gettempdir, Path.home, Path.cwd):
        with suppress(OSError, RuntimeError):
            place = Path(folder()) / f"fashiontl-{path.name}"
            with place.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            return f"{reason}; the record is in {place}: {shlex.join(['cat', str(place)])} >> {shlex.quote(str(path))}"
    return f"{reason}; the record could not be saved anywhere else either, so here it is:\n{line.decode()}"
