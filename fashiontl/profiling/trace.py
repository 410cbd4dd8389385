"""A trace file that viewers open: strictly valid JSON, with the rank that HolisticTraceAnalysis looks for."""

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec

# A backslash and what may follow it in JSON, or one that is alone.
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')


def read_trace(content: bytes) -> tuple[dict[str, Any], bool]:
    """Parse a trace, mending what torch is known to write: single backslashes, NaN, bytes that are not UTF-8.

    Args:
        content: JSON, more or less.

    Returns:
        The trace, and whether it had to be mended; numbers that are none become null.

    Raises:
        ValueError: it is beyond that.
    """
    try:
        trace, mended = msgspec.json.decode(content), False
    except ValueError:
        text = _ESCAPE.sub(lambda found: found[0] if len(found[0]) > 1 else r"\\", content.decode(errors="replace"))
        trace, mended = json.loads(text, strict=False, parse_constant=lambda constant: None), True
    if not (isinstance(trace, dict) and trace.get("traceEvents")):
        raise ValueError("it has no events")
    return trace, mended


def write_trace(trace: dict[str, Any], folder: Path, name: str) -> Path:
    """Write a trace so that a viewer never sees half of it.

    Args:
        trace: gets the rank of a single process where it has none, and its own file's name.
        folder: is made when needed.
        name: of the worker, as viewers show it.

    Returns:
        Path of `NAME.TIME.pt.trace.json.gz`, the form that torch-tb-profiler looks for; the time is in nanoseconds.
    """
    path = folder / f"{name}.{time.time_ns()}.pt.trace.json.gz"
    trace = {"distributedInfo": {"rank": 0, "world_size": 1}, **trace, "traceName": path.name}
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with gzip.open(part, "wb", compresslevel=6) as file:
            # HolisticTraceAnalysis finds the rank by a pattern that wants a space behind the colon.
            file.write(json.dumps(trace, allow_nan=False, separators=(",", ": ")).encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
