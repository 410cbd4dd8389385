"""Records: one JSON line a case, written at once and whole, and read back line by line. No torch."""

from fashiontl.records.frame import to_frame
from fashiontl.records.record import SCHEMA, Record, Status, from_json, to_json
from fashiontl.records.runs import (
    Earlier,
    Runs,
    journal_folder,
    latest,
    meaning,
    new_run_path,
    read_file,
    read_newest,
    read_runs,
    resumable,
    with_earlier,
)
from fashiontl.records.writing import RunFile, check_writable

__all__ = [
    "SCHEMA",
    "Earlier",
    "Record",
    "RunFile",
    "Runs",
    "Status",
    "check_writable",
    "from_json",
    "journal_folder",
    "latest",
    "meaning",
    "new_run_path",
    "read_file",
    "read_newest",
    "read_runs",
    "resumable",
    "to_frame",
    "to_json",
    "with_earlier",
]
