"""What stands under a table: all that its numbers depend on."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fashiontl.environment import Environment
from fashiontl.leaderboard.rows import Row

# Under tables of these tasks: the figures of the first networks that many people have met on this data.
_REFERENCES = {
    "fashion10": "**To beat** a widely read tutorial's figures, 20 naive epochs at batch size 32: 83 % with a VGG-like "
    "network, 89 % with a ResNet-50-like one",
}
_VERSIONS = {
    "Python": "python",
    "torch": "torch",
    "torchvision": "torchvision",
    "fashiontl": "fashiontl",
    "CUDA": "cuda",
    "cuDNN": "cudnn",
    "driver": "driver",
}


def notes(rows: Sequence[Row]) -> list[str]:
    """The notes of a section's rows, each in Markdown and on one line."""
    newest = max((row.record for row in rows), key=lambda record: record.started)
    environments = [row.record.environment for row in rows]
    found = [
        _command(rows),
        f"{_hardware(newest.environment, environments)} (machine `{newest.machine}`)",
        _versions(environments),
        f"**Settings** {_code(_assignments(dataclasses.asdict(newest.settings)))}",
        *_tests(rows),
        *_proof(rows),
    ]
    if newest.case.task in _REFERENCES:
        found.append(_REFERENCES[newest.case.task])
    return found


# A page repeats few names many times.
@functools.lru_cache(maxsize=1024)
def escape(text: str) -> str:
    r"""Text as Markdown that shows it as it is, on one line and within a table's cell.

    >>> print(escape("a | b\n<c> 2*3 of linear_probe"))
    a \| b &lt;c> 2\*3 of linear_probe
    """
    # An underscore within a word is only itself; one at a word's edge could begin emphasis.
    text = re.sub(r"([\\`*|\[\]~]|\b_|_\b)", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def provenance_entry(row: Row, part: str, name: str) -> Any:
    """One entry of a record's provenance; None when it is not there."""
    found = row.record.provenance.get(part)
    return found.get(name) if isinstance(found, dict) else None


def _command(rows: Sequence[Row]) -> str:
    records = [row.record for row in rows]
    # ISO times in UTC: the first sixteen characters are the date and the minute.
    times = sorted(record.started[:16].replace("T", " ") for record in records)
    commits = _several(
        f"`{environment.git_sha[:8]}`" + (" with uncommitted changes" if environment.git_dirty else "")
        for environment in (record.environment for record in records)
        if environment.git_sha
    )
    return (
        f"**Command** {_several((_code(record.command) for record in records), most=5)}, "
        f"{' to '.join(dict.fromkeys((times[0], times[-1])))} UTC" + (f", commit {commits}" if commits else "")
    )


def _hardware(newest: Environment, environments: Sequence[Environment]) -> str:
    parts = [
        *([newest.accelerator] if newest.accelerator else []),
        newest.cpu,
        f"{newest.usable_cores:g} of {newest.logical_cores} cores",
        f"{newest.threads} threads",
    ]
    if newest.memory is not None:
        parts.append(f"{newest.memory / 2**30:.1f} GiB")
    loads = [environment.load for environment in environments if environment.load is not None]
    if loads:
        parts.append(f"load up to {max(loads):g} when cases started")
    return f"**Hardware** {', '.join(map(escape, parts))}"


def _versions(environments: Sequence[Environment]) -> str:
    parts = []
    for title, name in _VERSIONS.items():
        versions = [version for environment in environments if (version := getattr(environment, name)) is not None]
        if versions:
            parts.append(f"{title} {_several(versions)}")
    return f"**Versions** {', '.join(parts)}; {_several(environment.os for environment in environments)}"


def _assignments(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items() if value != "")


def _tests(rows: Sequence[Row]) -> Iterator[str]:
    tested = [row for row in rows if row.seeds]
    if tested:
        seeds = _several(f"{row.seeds} seed{'s' if row.seeds > 1 else ''}" for row in tested)
        images = _several(f"{row.trials:,} test images" for row in tested)
        yield f"**Accuracy** of {seeds} on {images}, tested once, at the end of training"
    data = _several(
        f"{escape(str(provenance_entry(row, 'data', 'source')))}, SHA-256 `{str(digest)[:12]}`"
        for row in rows
        if (digest := provenance_entry(row, "data", "sha256"))
    )
    if data:
        yield f"**Data** {data}"


def _proof(rows: Sequence[Row]) -> Iterator[str]:
    proofs = [row.record.proof for row in rows if row.record.proof]
    if not proofs:
        return
    holds = sum(proof.get("holds") is True for proof in proofs)
    frozen, buffers, trained = (
        sum(count for proof in proofs if isinstance(count := proof.get(name), int))
        for name in ("frozen_parameters", "frozen_buffers", "trained_parameters")
    )
    yield (
        f"**Policy kept** in {holds} of {len(proofs)} trained cells: after training, what was frozen was bit-identical "
        f"({frozen:,} parameter tensors and {buffers:,} buffers compared), and every stage that trains had moved "
        f"({trained:,} parameter tensors)"
    )


def _several(texts: Iterable[str], most: int = 3) -> str:
    """Different texts, each once; those beyond the most are counted."""
    different = list(dict.fromkeys(texts))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


def _code(text: str) -> str:
    """Text as code; backticks in it need a longer fence."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return fence + pad + text + pad + fence
