"""The files of runs, read back as far as they can be."""

import functools
import itertools
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

from fashiontl.core.case import Settings
from fashiontl.core.errors import FashiontlError, no_file
from fashiontl.records.parsing import case_of_json, from_json, settings_of_json
from fashiontl.records.record import SCHEMA, Record

# Settings that do not change what a number means: names, places, and how long or how closely one looked. Threads are
# part of the machine.
_NOT_MEANING = ("preset", "data_root", "seconds", "samples", "timeout", "threads", "profile", "half_width", "sweep")

# A line is often longer than the usual buffer, and would be put together from pieces.
_BUFFER = 2**20
# A thousand times the longest record; without a limit, a file that is none would have to be held whole.
_LONGEST = 2**26

_Kept = TypeVar("_Kept")


class _Place(NamedTuple):
    """Where a line stands: its number from 1, and bytes from the file's beginning."""

    path: str
    number: int
    offset: int

    @property
    def text(self) -> str:
        """For messages."""
        return f"{self.path}:{self.number}"


class Runs(NamedTuple):
    """Records, and what could not be read: one `file:line: what` each."""

    records: tuple[Record, ...]
    faults: tuple[str, ...]


def new_run_path(results: Path, machine: str, sha: str | None, now: datetime, unique: str) -> Path:
    """Path of a new run, a name that no other run has, so that merges never conflict.

    Args:
        results: folder of the results.
        machine: key of the machine.
        sha: commit, None when there is none.
        now: any time zone.
        unique: tells apart runs of one second.
    """
    commit = sha[:8] if sha else "nogit"
    return results / "runs" / machine / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{commit}-{unique}.jsonl"


def read_file(path: Path) -> Runs:
    """All records of one run; lines that cannot be read become faults."""
    return _read([path])


def read_runs(results: Path) -> Runs:
    """All records of all runs, in the order of files and lines; lines that cannot be read become faults."""
    return _read(_run_files(results))


def _read(paths: Iterable[Path]) -> Runs:
    records: list[Record] = []
    faults: list[str] = []
    for place, line in _lines(paths, faults):
        try:
            records.append(from_json(line, place.text))
        except FashiontlError as error:
            faults.append(str(error))
    return Runs(tuple(records), tuple(faults))


def read_newest(
    results: Path, keep: Callable[[Record], _Kept], provenance: Collection[str] | None = None
) -> tuple[list[_Kept], list[str]]:
    """What `latest` chooses of all runs, without holding lines or records in memory or parsing what is out of date.

    Args:
        results: folder of the results.
        keep: makes of a record what is wanted of it.
        provenance: of which entries of it are wanted; all when None.

    Returns:
        What was kept of each record, and faults as in `Runs`. A fault deep in a line that is out of date is reported
        only when another line has one as well.
    """
    newest = _Newest[_Place]()
    faults: list[str] = []
    try:
        for place, line in _lines(_run_files(results), faults):
            key: Hashable
            found = line.endswith(b"}\n") and _BEGINNING.match(line)
            if found:
                started, machine, case, settings = found.groups()
                key = (machine, case_of_json(case), _meaning_of_json(settings))
            else:
                record = from_json(line, place.text)
                started = record.started.encode()
                key = (record.machine.encode(errors="surrogatepass"), record.case, meaning(record.settings))
            newest.offer(key, started, place)
        places = list(newest.take())
        del newest
        kept: list[Any] = [None] * len(places)
        for index, place, line in _read_again(places):
            kept[index] = keep(from_json(line, place.text, provenance))
    except (FashiontlError, ValueError, OSError):
        # A broken line may hide one that is older and sound: parse them all.
        return _read_newest_thoroughly(results, keep, provenance)
    return kept, faults


def _read_again(places: Sequence[_Place]) -> Iterator[tuple[int, _Place, bytes]]:
    """Lines by file, each with its index among the places.

    Raises:
        OSError: a file is there no more.
    """
    order = sorted(range(len(places)), key=lambda index: (places[index].path, places[index].offset))
    for path, indices in itertools.groupby(order, key=lambda index: places[index].path):
        with Path(path).open("rb", buffering=_BUFFER) as file:
            for index in indices:
                file.seek(places[index].offset)
                yield index, places[index], file.readline()


def _read_newest_thoroughly(
    results: Path, keep: Callable[[Record], _Kept], provenance: Collection[str] | None
) -> tuple[list[_Kept], list[str]]:
    newest = _Newest[_Kept]()
    faults: list[str] = []
    for place, line in _lines(_run_files(results), faults):
        try:
            record = from_json(line, place.text, provenance)
        except FashiontlError as error:
            faults.append(str(error))
        else:
            newest.offer(_identity(record), record.started, keep(record))
    return list(newest.take()), faults


# The beginning of a line as `to_json` writes it, but for texts with a brace or a backslash: without these, the first
# closing brace is the object's end. What this does not match is parsed.
_BEGINNING = re.compile(
    rb'{"schema":%d,"started":"([^"\\]*)","machine":"([^"\\]*)","case":({[^{}\\]*}),"settings":({[^{}\\]*}),' % SCHEMA
)


class _Newest(Generic[_Kept]):
    """Keeps the newest offer of each key, in the order in which the keys came."""

    def __init__(self) -> None:
        self._newest: dict[Hashable, tuple[Any, _Kept]] = {}

    def offer(self, key: Hashable, started: Any, kept: _Kept) -> None:
        # Times in UTC of one form sort as text. The later of two offers of one second is the newer.
        before = self._newest.get(key)
        if before is None or started >= before[0]:
            self._newest[key] = (started, kept)

    def take(self) -> Iterator[_Kept]:
        return (kept for _, kept in self._newest.values())


def latest(records: Iterable[Record]) -> list[Record]:
    """The newest record of each case, on each machine, with each meaning of the settings."""
    newest = _Newest[Record]()
    for record in records:
        newest.offer(_identity(record), record.started, record)
    return list(newest.take())


def _identity(record: Record) -> Hashable:
    return record.machine, record.case, meaning(record.settings)


@functools.lru_cache(maxsize=1024)
def _meaning_of_json(settings: bytes) -> Settings:
    return meaning(settings_of_json(settings))


@functools.lru_cache(maxsize=1024)
def meaning(settings: Settings) -> Settings:
    """The settings with everything at its default that does not change what a number means."""
    default = Settings()
    return replace(settings, **{name: getattr(default, name) for name in _NOT_MEANING})


def resumable(results: Path, machine: str, settings: Settings) -> tuple[Path | None, set[str]]:
    """The machine's newest run with these settings, and the ids of the cases that it has measured.

    Cases that failed or were skipped do not count as measured.

    Returns:
        None and nothing when there is no such run.
    """
    for path in reversed(_run_files(results, machine)):
        records = read_file(path).records
        if records and meaning(records[0].settings) == meaning(settings):
            return path, {record.id for record in records if record.status == "ok"}
    return None, set()


def _run_files(results: Path, machine: str = "**") -> list[Path]:
    return sorted((results / "runs").glob(f"{machine}/*.jsonl"))


def _lines(paths: Iterable[Path], faults: list[str]) -> Iterator[tuple[_Place, bytes]]:
    """Each line that is not blank, with its place; what cannot be read is added to the faults."""
    for path in paths:
        # Who opens a pipe waits for ever; a folder says what it is itself.
        if (kind := no_file(path)) not in {"", "a folder"}:
            faults.append(f"{path}: expected a run's file, got {kind}; move it away")
            continue
        try:
            with path.open("rb", buffering=_BUFFER) as file:
                offset = number = 0
                while line := file.readline(_LONGEST):
                    number += 1
                    size = len(line)
                    if size == _LONGEST and not line.endswith(b"\n"):
                        size += _skip(file)
                        faults.append(f"{path}:{number}: expected a line of less than {_LONGEST:,} bytes, got {size:,}")
                    elif not line.isspace():
                        yield _Place(str(path), number, offset), line
                    offset += size
        except OSError as error:
            faults.append(f"{path}: expected a run's file, got: {error.strerror}")


def _skip(file: BinaryIO) -> int:
    """Go to the end of the line, and say how many bytes that was."""
    size = 0
    while part := file.readline(_BUFFER):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size
