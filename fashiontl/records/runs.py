"""The files of runs, read back as far as they can be."""

import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from fashiontl.core.case import Case, Settings
from fashiontl.core.errors import FashiontlError, no_file
from fashiontl.core.metrics import Measurement
from fashiontl.records.record import Record, current_settings, from_json, wrong_numbers

# Settings that do not change what a number means: names, places, and how long or how closely one looked. Threads are
# part of the machine.
_NOT_MEANING = (
    "preset", "data_root", "seconds", "samples", "processes", "half_width", "budget", "spacing", "timeout", "threads",
    "profile", "sweep",
)  # fmt: skip

# A line is often longer than the usual buffer, and would be put together from pieces.
_BUFFER = 2**20

# More of a cell's runs would hardly change what they say of the spread between runs, and reading takes time.
_MOST_EARLIER = 9

# What a line holds that has slices; few others do.
_SLICES = b'"slices"'

_Kept = TypeVar("_Kept")


class _Place(NamedTuple):
    """Where a line stands: its number from 1, and bytes from the file's beginning."""

    path: Path
    number: int
    offset: int

    def line(self) -> bytes:
        """The line, read again."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.readline()

    def read(self, line: bytes | None = None) -> Record:
        """Its record, of the line where it is at hand."""
        return from_json(self.line() if line is None else line, f"{self.path}:{self.number}")


class _Identity(msgspec.Struct):
    """What tells which cell a line is of, and when it was measured; msgspec skips the rest."""

    started: str
    machine: str
    case: Case
    settings: dict[str, Any]

    def key(self) -> Hashable:
        """As `_key` of its record."""
        return self.machine, self.case, meaning(msgspec.convert(current_settings(self.settings), Settings))


class _Version(msgspec.Struct, frozen=True):
    fashiontl: str


class _Extensions(msgspec.Struct, frozen=True):
    extensions: dict[str, str] = {}


class Earlier(msgspec.Struct, frozen=True):
    """What a record that is no longer the newest of its cell says of speed. Its other numbers are out of date.

    Attributes:
        measurements: those taken in slices.
    """

    run: str
    started: str
    status: str
    environment: _Version
    measurements: tuple[Measurement, ...]
    provenance: _Extensions

    @classmethod
    def of(cls, record: Record) -> "Earlier":
        """The same of a whole record."""
        version, extensions = _Version(record.environment.fashiontl), _Extensions(record.facts().extensions)
        return cls(
            record.run, record.started, record.status, version, record.measurements, extensions
        )._with_sound_slices()

    @classmethod
    def parse(cls, line: bytes) -> "Earlier | None":
        """What of a line; None where it cannot be read."""
        try:
            return _EARLIER.decode(line)._with_sound_slices()
        except (ValueError, RecursionError, msgspec.MsgspecError):
            return None

    def measurement(self, metric: str) -> Measurement | None:
        """The measurement of a metric, if there is one."""
        return next((each for each in self.measurements if each.metric == metric), None)

    def agrees(self, newest: Record) -> bool:
        """Whether speed was measured as in the newest record of the same cell, by the same code, and it went well."""
        return (
            self.status == newest.status == "ok"
            and self.environment.fashiontl == newest.environment.fashiontl
            and self.provenance.extensions == newest.facts().extensions
            and bool(self.measurements)
        )

    def _with_sound_slices(self) -> "Earlier":
        sound = tuple(each for each in self.measurements if each.slices and each.values and not wrong_numbers(each))
        return msgspec.structs.replace(self, measurements=sound)


_EARLIER = msgspec.json.Decoder(Earlier)


class Runs(NamedTuple):
    """Records, and what could not be read: one `file:line: what` each."""

    records: tuple[Record, ...]
    errors: tuple[str, ...]


def new_run_path(results: Path, machine: str, sha: str | None, now: datetime, unique: str) -> Path:
    """Path of a new run, a name that no other run has, so that merges never conflict.

    `sha` is the commit, if there is one, and `unique` tells apart runs of one second.
    """
    commit = sha[:8] if sha else "nogit"
    return results / "runs" / machine / f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{commit}-{unique}.jsonl"


def read_file(path: Path) -> Runs:
    """All records of one run; lines that cannot be read become errors."""
    return _read([path])


def read_runs(results: Path) -> Runs:
    """All records of all runs, in the order of files and lines; lines that cannot be read become errors."""
    return _read(_run_files(results))


def _read(paths: Iterable[Path]) -> Runs:
    records: list[Record] = []
    errors: list[str] = []
    for place, line in _lines(paths, errors):
        try:
            records.append(place.read(line))
        except FashiontlError as error:
            errors.append(str(error))
    return Runs(tuple(records), tuple(errors))


def read_newest(results: Path, keep: Callable[[Record, Sequence[Earlier]], _Kept]) -> tuple[list[_Kept], list[str]]:
    """What `with_earlier` chooses of all runs, without holding lines or records in memory or parsing needless ones.

    Returns:
        What `keep` makes of each newest record and the earlier ones, and errors as in `Runs`. Where the newest line of
        a cell cannot be read, the one before it counts; errors deep in lines that are out of date are not looked for.
    """
    decoder = msgspec.json.Decoder(_Identity)
    lines: dict[Hashable, list[tuple[str, _Place, bool]]] = {}
    errors: list[str] = []
    for place, line in _lines(_run_files(results), errors):
        try:
            found = decoder.decode(line)
            key, started = found.key(), found.started
        except (ValueError, RecursionError, msgspec.MsgspecError):
            try:
                record = place.read(line)
            except FashiontlError as error:
                errors.append(str(error))
                continue
            key, started = _key(record), record.started
        lines.setdefault(key, []).append((started, place, _SLICES in line))
    kept = []
    for places in lines.values():
        places.sort(key=lambda entry: entry[0])
        while places:
            _, place, sliced = places.pop()
            try:
                record = place.read()
                kept.append(keep(record, _earlier(record, _parsed(places)) if sliced else ()))
                break
            except (FashiontlError, OSError) as error:
                errors.append(str(error))
    return kept, errors


def _parsed(places: Sequence[tuple[str, _Place, bool]]) -> Iterator[Earlier]:
    """What lines with slices say of speed, the newest first."""
    for _, place, sliced in reversed(places):
        if sliced and (found := Earlier.parse(place.line())):
            yield found


def _earlier(newest: Record, found: Iterable[Earlier]) -> tuple[Earlier, ...]:
    return tuple(itertools.islice((each for each in found if each.agrees(newest)), _MOST_EARLIER))


def latest(records: Iterable[Record]) -> list[Record]:
    """The newest record of each case, on each machine, with each meaning of the settings."""
    return [newest for newest, _ in with_earlier(records)]


def with_earlier(records: Iterable[Record]) -> list[tuple[Record, tuple[Earlier, ...]]]:
    """Each of `latest` with what earlier runs of the same cell measured of speed by the same code, the newest first."""
    cells: dict[Hashable, list[Record]] = {}
    for record in records:
        cells.setdefault(_key(record), []).append(record)
    found = []
    for cell in cells.values():
        # Times in UTC of one form sort as text. The later of two records of one second is the newer.
        *earlier, newest = sorted(cell, key=lambda record: record.started)
        found.append((newest, _earlier(newest, map(Earlier.of, reversed(earlier)))))
    return found


def _key(record: Record) -> Hashable:
    return record.machine, record.case, meaning(record.settings)


@functools.lru_cache(maxsize=1024)
def meaning(settings: Settings) -> Settings:
    """The settings with everything at its default that does not change what a number means."""
    default = Settings()
    return replace(settings, **{name: getattr(default, name) for name in _NOT_MEANING})


def journal_folder(results: Path, machine: str) -> Path:
    """Where the slices of a machine's runs are kept until all cells have their records."""
    return results / "journal" / machine


def resumable(results: Path, machine: str, settings: Settings) -> tuple[Path | None, set[str]]:
    """The machine's newest run with these settings, if there is one, and the ids of its cases that went well.

    It may have no record yet, and slices in its journal alone.
    """
    found: Path | None = None
    finished: set[str] = set()
    for path in reversed(_run_files(results, machine)):
        records = read_file(path).records
        if records and meaning(records[0].settings) == meaning(settings):
            found, finished = path, {record.id for record in records if record.status == "ok"}
            break
    for journal in sorted(journal_folder(results, machine).glob("*.jsonl"), reverse=True):
        run = journal.name.partition(".")[0]
        # Names begin with the time.
        if found is not None and run <= found.stem:
            break
        if (known := _settings_of(journal)) and meaning(known) == meaning(settings):
            return results / "runs" / machine / f"{run}.jsonl", set()
    return found, finished


def _settings_of(journal: Path) -> Settings | None:
    """The settings in a journal's first line; None where it has none."""
    try:
        with journal.open("rb") as file:
            return msgspec.json.decode(file.readline(_BUFFER), type=Settings)
    except (OSError, msgspec.DecodeError):
        return None


def _run_files(results: Path, machine: str = "**") -> list[Path]:
    return sorted((results / "runs").glob(f"{machine}/*.jsonl"))


def _lines(paths: Iterable[Path], errors: list[str]) -> Iterator[tuple[_Place, bytes]]:
    """Each line that is not blank, with its place; what cannot be read is added to the errors."""
    for path in paths:
        # Who opens a pipe waits for ever; a folder says what it is itself.
        if (kind := no_file(path)) not in {"", "a folder"}:
            errors.append(f"{path}: expected a run's file, got {kind}; move it away")
            continue
        try:
            with path.open("rb", buffering=_BUFFER) as file:
                offset = 0
                for number, line in enumerate(file, start=1):
                    if not line.isspace():
                        yield _Place(path, number, offset), line
                    offset += len(line)
        except OSError as error:
            errors.append(f"{path}: expected a run's file, got: {error.strerror}")
