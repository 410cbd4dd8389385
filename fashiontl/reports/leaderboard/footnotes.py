"""Doubts about numbers, as footnotes of a section."""

from collections.abc import Sequence

from fashiontl.core.escape import to_markdown
from fashiontl.reports.leaderboard.markdown import folded, superscript
from fashiontl.reports.leaderboard.rows import Row

# A longer one is cut in the table; the record has it whole.
_LONGEST_REASON = 100
_LONGEST_DOUBTS = 2000

# More footnotes than these are folded away.
_MOST_OPEN = 12


class Footnotes:
    """The doubts of a section's rows, numbered; rows with the same doubts share a number.

    Args:
        rows: in the order in which they are shown.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        doubts = [(id(row), text) for row in rows if (text := _doubts(row))]
        self._texts = list(dict.fromkeys(text for _, text in doubts))
        marks = {text: f" {superscript(number)}" for number, text in enumerate(self._texts, start=1)}
        self._marks = {row: marks[text] for row, text in doubts}

    def mark(self, row: Row) -> str:
        """The row's superscript with the space before it; empty when there is no doubt."""
        return self._marks.get(id(row), "")

    def status(self, row: Row) -> str:
        """Whether a row's numbers may be compared, else why not, and the mark of its doubts."""
        record = row.record
        reason = to_markdown(record.reason, _LONGEST_REASON)
        text = "ok" if row.sound else f"**{to_markdown(record.status)}**" + (f": {reason}" if reason else "")
        return text + self.mark(row)

    @property
    def text(self) -> str:
        """The footnotes in Markdown; empty without doubts."""
        # Two spaces at the end are a line break.
        lines = [
            f"{superscript(number)} {to_markdown(text, _LONGEST_DOUBTS)}  "
            for number, text in enumerate(self._texts, start=1)
        ]
        text = "\n".join(lines).rstrip()
        return folded(f"{len(lines)} footnotes", text) if len(lines) > _MOST_OPEN else text


def _doubts(row: Row) -> str:
    """All that a reader must know about a row's numbers; empty when there is nothing."""
    doubts = list(row.record.warnings)
    size = row.record.provenance.get("image_size")
    if type(size) is int and size > (row.record.case.image_size or row.record.settings.image_size):
        doubts.append(f"images of {size} pixels, the least that it takes")
    if row.periods:
        doubts.append(
            f"a training step is the mean over {len(row.periods)} plans, weighted by their epochs; the peak of memory "
            "is the largest of them"
        )
    unmoved = (row.record.proof or {}).get("unmoved", ())
    if isinstance(unmoved, list | tuple) and unmoved:
        names = ", ".join(map(str, unmoved[:3])) + (", …" if len(unmoved) > 3 else "")
        doubts.append(f"{len(unmoved)} tensors that should train did not move ({names})")
    return "; ".join(doubts)
