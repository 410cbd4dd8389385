"""Records: one JSON line a case, written at once and whole, and read back line by line. No torch."""

from fashiontl.record.frame import to_frame
from fashiontl.record.line import SCHEMA, Record, Status, to_json
from fashiontl.record.parsing import from_json
from fashiontl.record.runs import (
    Runs,
    latest,
    meaning,
    new_run_path,
    read_file,
    read_newest,
    read_runs,
    resumable,
)
from fashiontl.record.writing import RunFile, check_folder, check_temporary, check_writable, write_atomically

__all__ = [
    "SCHEMA",
    "Record",
    "RunFile",
    "Runs",
    "Status",
    "check_folder",
    "check_temporary",
    "check_writable",
    "from_json",
    "latest",
    "meaning",
    "new_run_path",
    "read_file",
    "read_newest",
    "read_runs",
    "resumable",
    "to_frame",
    "to_json",
    "write_atomically",
]
