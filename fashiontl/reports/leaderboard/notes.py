"""What stands under a table: all that its numbers depend on."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from fashiontl.core.escape import LONGEST_NAME, to_code, to_markdown
from fashiontl.machine.environment import Environment
from fashiontl.records import Record
from fashiontl.reports.leaderboard.loops import Loops
from fashiontl.reports.leaderboard.markdown import short_digest
from fashiontl.reports.leaderboard.rows import Row

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
        f"{_hardware(newest.environment, environments)} (machine {to_code(newest.machine, LONGEST_NAME)})",
        _versions(environments),
        f"**Settings** {to_code(_assignments(newest))}",
        *_tests(rows),
        *_timing(rows),
        *_extensions(rows),
        *_proof(rows),
        *_determinism(rows),
    ]
    if newest.case.task in _REFERENCES:
        found.append(_REFERENCES[newest.case.task])
    return found


def _command(rows: Sequence[Row]) -> str:
    records = [row.record for row in rows]
    # ISO times in UTC: the first sixteen characters are the date and the minute.
    times = sorted(to_markdown(record.started[:16].replace("T", " ")) for record in records)
    commits = _several(
        short_digest(environment.git_sha, 8) + (" with uncommitted changes" if environment.git_dirty else "")
        for environment in (record.environment for record in records)
        if environment.git_sha
    )
    return (
        f"**Command** {_several(map(to_code, dict.fromkeys(record.command for record in records)), most=5)}, "
        f"{' to '.join(dict.fromkeys((times[0], times[-1])))} UTC" + (f", commit {commits}" if commits else "")
    )


def _hardware(newest: Environment, environments: Sequence[Environment]) -> str:
    parts = [
        *([newest.accelerator] if newest.accelerator else []),
        newest.cpu,
        f"{newest.usable_cores:g} of {newest.logical_cores} cores",
        f"{newest.threads} thread{'s' if newest.threads > 1 else ''}"
        + (f" (by {newest.threads_limit})" if newest.threads_limit else ""),
    ]
    if newest.memory is not None:
        parts.append(f"{newest.memory / 2**30:.1f} GiB")
    loads = [environment.load for environment in environments if environment.load is not None]
    if loads:
        parts.append(f"load up to {max(loads):g} when cases started")
    return f"**Hardware** {', '.join(map(to_markdown, parts))}"


def _versions(environments: Sequence[Environment]) -> str:
    parts = []
    for title, name in _VERSIONS.items():
        versions = [version for environment in environments if (version := getattr(environment, name)) is not None]
        if versions:
            parts.append(f"{title} {_several(map(to_markdown, versions))}")
    return f"**Versions** {', '.join(parts)}; {_several(to_markdown(environment.os) for environment in environments)}"


def _assignments(record: Record) -> str:
    values = dataclasses.asdict(record.settings)
    if "@" in record.case.task:
        # The task says how many, whatever the setting.
        del values["train_per_class"]
    return " ".join(f"{name}={value}" for name, value in values.items() if value != "")


def _tests(rows: Sequence[Row]) -> Iterator[str]:
    tested = [row for row in rows if row.seeds]
    if tested:
        seeds = _several(f"{row.seeds} seed{'s' if row.seeds > 1 else ''}" for row in tested)
        images = _several(f"{row.trials:,} test images" for row in tested)
        yield f"**Accuracy** of {seeds} on {images}, tested once, {_end(tested)}"
    data = _several(
        f"{to_markdown(str(row.provenance('data', 'source')))}, SHA-256 {short_digest(digest)}"
        for row in rows
        if (digest := row.provenance("data", "sha256"))
    )
    if data:
        yield f"**Data** {data}"


def _end(tested: Sequence[Row]) -> str:
    """At which epoch the test was."""
    validated = [chosen for row in tested if (chosen := _chosen_epochs(row))]
    if not validated:
        return "at the end of training"
    images = tested[0].record.settings.validation_per_class
    cells = f" in {len(validated)} of {len(tested)} cells" if len(validated) < len(tested) else ""
    epochs = [epoch + 1 for chosen in validated for epoch in chosen]
    return (
        f"at the epoch chosen{cells} on {images:,} validation images a class, carved from training: "
        f"epochs {min(epochs)} to {max(epochs)} of {tested[0].record.settings.epochs}"
    )


def _chosen_epochs(row: Row) -> list[int]:
    """The number from 0 of the epoch that each seed chose; none when no validation images chose."""
    seeds = row.record.provenance.get("validation")
    return [
        seed["chosen"]
        for seed in (seeds if isinstance(seeds, list | tuple) else ())
        if isinstance(seed, dict) and seed.get("accuracies") and type(seed.get("chosen")) is int
    ]


def _timing(rows: Sequence[Row]) -> Iterator[str]:
    loops = Loops(*map(sum, zip(*(row.loops for row in rows), strict=True)))
    ended = {
        "once their median was precise": loops.precise,
        "as their time was up": loops.time,
        "with as many samples as a record holds": loops.samples,
    }
    total = sum(ended.values())
    if not total:
        return
    reasons = ", ".join(f"{count} {why}" for why, count in ended.items() if count)
    steady = f"{loops.unsteady} never became steady" if loops.unsteady else "all became steady"
    yield (
        f"**Timing** {total} loop{'s' if total > 1 else ''} ended: {reasons}; {steady}; {loops.throttled or 'none'} "
        "dropped samples of a throttled machine"
    )


def _determinism(rows: Sequence[Row]) -> Iterator[str]:
    known = [flag for row in rows if isinstance(flag := row.record.provenance.get("deterministic"), bool)]
    if known:
        yield (
            f"**Deterministic** training in {sum(known)} of {len(known)} cells: the same seed, machine and versions "
            "give identical weights"
        )


def _extensions(rows: Sequence[Row]) -> Iterator[str]:
    """Files of the user's own that took part, such as an architecture or a policy."""
    named = [found for row in rows if isinstance(found := row.record.provenance.get("extensions"), dict)]
    texts = [
        f"{to_code(str(name), LONGEST_NAME)}, SHA-256 {short_digest(digest)}"
        for found in named
        for name, digest in found.items()
    ]
    if texts:
        yield f"**Extensions** {_several(texts, most=5)}"


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
