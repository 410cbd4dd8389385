"""What stands under a table: all that its numbers depend on, and warnings about them as footnotes."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from fashiontl.core.escape import LONGEST_NAME, to_code, to_markdown
from fashiontl.core.metrics import METRICS
from fashiontl.machine.environment import Environment
from fashiontl.records import Record
from fashiontl.reports.leaderboard.between import Between
from fashiontl.reports.leaderboard.columns import TIMED
from fashiontl.reports.leaderboard.markdown import folded, short_digest, superscript
from fashiontl.reports.leaderboard.rows import Row

# A longer reason is cut in the table; the record has it whole.
_LONGEST_REASON = 100
_LONGEST_FOOTNOTE = 2000
# More footnotes than these are folded away.
_MOST_OPEN = 12

# The first networks that many people have met on fashion10.
_REFERENCE = (
    "**To beat** a widely read tutorial's figures, 20 naive epochs at batch size 32: 83 % with a VGG-like network, 89 "
    "% with a ResNet-50-like one"
)
_VERSIONS = {
    "Python": "python", "torch": "torch", "torchvision": "torchvision", "fashiontl": "fashiontl", "CUDA": "cuda",
    "cuDNN": "cudnn", "driver": "driver",
}  # fmt: skip


def notes(rows: Sequence[Row], known: Mapping[str, Between] = MappingProxyType({})) -> Iterator[str]:
    """The notes of a section, each in Markdown and on one line.

    Args:
        rows: of the section.
        known: of each timed metric how the machine's runs differ, where that is known.
    """
    records = [row.record for row in rows]
    newest = max(records, key=lambda record: record.started)
    environments = [record.environment for record in records]
    yield _command(records)
    yield f"{_hardware(newest.environment, environments)} (machine {to_code(newest.machine, LONGEST_NAME)})"
    yield _versions(environments)
    settings = dataclasses.asdict(newest.settings)
    if "@" in newest.case.task:
        # The task says how many, whatever the setting.
        del settings["train_per_class"]
    yield f"**Settings** {to_code(' '.join(f'{name}={value}' for name, value in settings.items() if value != ''))}"
    yield from _tests(rows)
    yield from _timing(rows)
    yield from _slices(rows, known)
    if extensions := [entry for row in rows for entry in row.facts.extensions.items()]:
        texts = [f"{to_code(name, LONGEST_NAME)}, SHA-256 {short_digest(digest)}" for name, digest in extensions]
        yield f"**Extensions** {_several(texts, most=5)}"
    yield from _proof(rows)
    if told := [row.facts.deterministic for row in rows if row.facts.deterministic is not None]:
        yield (
            f"**Deterministic** training in {sum(told)} of {len(told)} cells: the same seed, machine and versions "
            "give identical weights"
        )
    if newest.case.task == "fashion10":
        yield _REFERENCE


def _command(records: Sequence[Record]) -> str:
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
    limit = f" (by {newest.threads_limit})" if newest.threads_limit else ""
    parts = [
        newest.accelerator,
        newest.cpu,
        f"{newest.usable_cores:g} of {newest.logical_cores} cores",
        f"{newest.threads} thread{'s' if newest.threads > 1 else ''}{limit}",
        _allocator(newest),
        None if newest.memory is None else f"{newest.memory / 2**30:.1f} GiB",
    ]
    loads = [environment.load for environment in environments if environment.load is not None]
    if loads:
        parts.append(f"load up to {max(loads):g} when cases started")
    return f"**Hardware** {', '.join(to_markdown(part) for part in parts if part)}"


def _allocator(environment: Environment) -> str | None:
    """What a plain script would have to set for the same speed; None where that is not known, or nothing."""
    names = [each.partition("=")[0] for each in environment.variables or () if each.startswith("MALLOC_")]
    return f"memory allocator pinned by {', '.join(names)} (--set allocator=default times without)" if names else None


def _versions(environments: Sequence[Environment]) -> str:
    found = {
        title: _several(to_markdown(version) for each in environments if (version := getattr(each, name)) is not None)
        for title, name in _VERSIONS.items()
    }
    parts = [f"{title} {versions}" for title, versions in found.items() if versions]
    return f"**Versions** {', '.join(parts)}; {_several(to_markdown(environment.os) for environment in environments)}"


def _tests(rows: Sequence[Row]) -> Iterator[str]:
    tested = [row for row in rows if row.seeds]
    if tested:
        seeds = _several(f"{row.seeds} seed{'s' if row.seeds > 1 else ''}" for row in tested)
        images = _several(f"{row.trials:,} test images" for row in tested)
        yield f"**Accuracy** of {seeds} on {images}, tested once, {_end(tested)}"
    data = _several(
        f"{to_markdown(source.source)}, SHA-256 {short_digest(source.sha256)}"
        for row in rows
        if (source := row.facts.data).sha256
    )
    if data:
        yield f"**Data** {data}"


def _end(tested: Sequence[Row]) -> str:
    """At which epoch the test was."""
    validated = [
        [seed.chosen + 1 for seed in row.facts.validation if seed and seed.accuracies and seed.chosen is not None]
        for row in tested
    ]
    epochs = [epoch for chosen in validated for epoch in chosen]
    if not epochs:
        return "at the end of training"
    count = sum(map(bool, validated))
    cells = f" in {count} of {len(tested)} cells" if count < len(tested) else ""
    settings = tested[0].record.settings
    return (
        f"at the epoch chosen{cells} on {settings.validation_per_class:,} validation images a class, carved from "
        f"training: epochs {min(epochs)} to {max(epochs)} of {settings.epochs}"
    )


def _timing(rows: Sequence[Row]) -> Iterator[str]:
    loops = [loop for row in rows for loop in row.facts.timing.values()]
    ended = [loop.ended for loop in loops]
    counts = {
        "when they were precise": ended.count("precise"),
        "when their time was up": ended.count("time") + ended.count("budget"),
        "with as many samples as a record holds": ended.count("samples"),
    }
    total = sum(counts.values())
    if not total:
        return
    reasons = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    unsteady = sum(not loop.steady for loop in loops)
    steady = f"{unsteady} never became steady" if unsteady else "all became steady"
    yield (
        f"**Timing** {total} loop{'s' if total > 1 else ''} ended: {reasons}; {steady}; "
        f"{sum(loop.throttled > 0 for loop in loops) or 'none'} have samples of a throttled machine"
    )


def _slices(rows: Sequence[Row], known: Mapping[str, Between]) -> Iterator[str]:
    """How timed numbers came about: single stretches, shared and combined measurements, and where a later run lies."""
    timed = [row.timed for row in rows if row.timed]
    single = sum(any(how.single for how in each.values()) for each in timed)
    if single:
        yield (
            f"**Single process** in {single} of {len(timed)} cells: their speeds are of one stretch in one process, so "
            "that the interval in parentheses is too small (most such intervals of one network do not overlap when it "
            "is measured twice); they are compared with nothing, and none is best"
        )
    # By metrics, so that those which are shared alike stand together.
    shared: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for metric in TIMED:
        groups = tuple(dict.fromkeys(how.shared for each in timed if (how := each.get(metric)) and how.shared))
        if groups:
            shared.setdefault(groups, []).append(_title(metric))
    for groups, metrics in shared.items():
        yield (
            f"**Shared** {', '.join(metrics)}: {len(groups)} measurement{'s' * (len(groups) > 1)} for "
            f"{sum(map(len, groups))} cells; those of one network that differ in what does not matter to it, such as "
            "the policy in inference, share one number"
        )
    counts = [len(how.runs) for each in timed for how in each.values() if how.several]
    if counts:
        combined = sum(any(how.several for how in each.values()) for each in timed)
        yield (
            f"**Several runs**: in {combined} of {len(timed)} cells speed is the mean of {_span(counts)} runs of the "
            "same code and settings, and its ± holds for further runs; every other ± holds within the newest run"
        )
    if own := {metric: known[metric] for metric in TIMED if metric in known and any(metric in each for each in timed)}:
        widths = ", ".join(f"{_title(metric)} ± {100 * each.later:.0f} %" for metric, each in own.items())
        runs, cells = max(each.runs for each in own.values()), max(each.cells for each in own.values())
        yield (
            f"**A later run** should lie within, of what one run says: {widths}; learned from up to {runs} runs of "
            f"{cells} cell{'s' * (cells > 1)} on this machine"
        )
    elif len(timed) > single:
        yield "**A later run** may lie outside of ±, by how much is unknown: this machine has one run of each cell"


def _title(metric: str) -> str:
    """A metric's name without its unit."""
    return METRICS[metric].label.partition(" (")[0].lower()


def _span(counts: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(map(str, (min(counts), max(counts)))))


def _proof(rows: Sequence[Row]) -> Iterator[str]:
    proofs = [row.record.proof for row in rows if row.record.proof]
    if not proofs:
        return
    frozen, buffers, trained = (
        sum(getattr(proof, name) for proof in proofs)
        for name in ("frozen_parameters", "frozen_buffers", "trained_parameters")
    )
    yield (
        f"**Policy kept** in {sum(proof.holds for proof in proofs)} of {len(proofs)} trained cells: after training, "
        f"what was frozen was bit-identical ({frozen:,} parameter tensors and {buffers:,} buffers compared), and every "
        f"stage that trains had moved ({trained:,} parameter tensors)"
    )


def _several(texts: Iterable[str], most: int = 3) -> str:
    """Different texts, each once; those beyond the most are counted."""
    different = list(dict.fromkeys(texts))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


class Footnotes:
    """The warnings about a section's rows, numbered in their order; rows with the same warnings share a number."""

    def __init__(self, rows: Sequence[Row]) -> None:
        warnings = [(id(row), text) for row in rows if (text := _warnings(row))]
        self._texts = list(dict.fromkeys(text for _, text in warnings))
        marks = {text: f" {superscript(number)}" for number, text in enumerate(self._texts, start=1)}
        self._marks = {row: marks[text] for row, text in warnings}

    def mark(self, row: Row) -> str:
        """The row's superscript with the space before it; empty without a warning."""
        return self._marks.get(id(row), "")

    def status(self, row: Row) -> str:
        """Whether a row's numbers may be compared, else why not, and the mark of its warnings."""
        record = row.record
        reason = to_markdown(record.reason, _LONGEST_REASON)
        text = "ok" if row.sound else f"**{to_markdown(record.status)}**" + (f": {reason}" if reason else "")
        return text + self.mark(row)

    @property
    def text(self) -> str:
        """The footnotes in Markdown; empty without warnings."""
        # Two spaces at the end are a line break.
        lines = [
            f"{superscript(number)} {to_markdown(text, _LONGEST_FOOTNOTE)}  "
            for number, text in enumerate(self._texts, start=1)
        ]
        text = "\n".join(lines).rstrip()
        return folded(f"{len(lines)} footnotes", text) if len(lines) > _MOST_OPEN else text


def _warnings(row: Row) -> str:
    record, facts = row.record, row.facts
    found = list(record.warnings)
    if facts.image_size and facts.image_size > (record.case.image_size or record.settings.image_size):
        found.append(f"images of {facts.image_size} pixels, the least that it takes")
    if len(facts.periods.each) > 1:
        found.append(
            f"a training step is the mean over {len(facts.periods.each)} plans, weighted by their epochs; the peak of "
            "memory is the largest of them"
        )
    if record.proof and (unmoved := record.proof.unmoved):
        names = ", ".join(unmoved[:3]) + (", …" if len(unmoved) > 3 else "")
        found.append(f"{len(unmoved)} tensors that should train did not move ({names})")
    found += _disturbed(row)
    return "; ".join(found)


def _disturbed(row: Row) -> Iterator[str]:
    """Which of a row's slices were disturbed and why; those of one count and reason together."""
    alike: dict[tuple[int, int, bool, tuple[str, ...]], list[str]] = {}
    for metric, how in row.timed.items():
        if how.disturbed:
            alike.setdefault((how.disturbed, how.slices, how.spoiled, how.reasons), []).append(_title(metric))
    for (disturbed, slices, spoiled, reasons), metrics in alike.items():
        rest = "the others are too few for a number" if spoiled else "the number is of the others"
        yield f"{', '.join(metrics)}: {disturbed} of {slices} slices disturbed ({', '.join(reasons)}); {rest}"
