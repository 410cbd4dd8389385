"""How cells are called in a section's tables: what tells them apart, short names for long hybrids, known tasks."""

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fashiontl.core.case import EXECUTIONS, MEMORY_FORMATS, PRECISIONS, Case
from fashiontl.core.errors import FashiontlError
from fashiontl.core.escape import LONGEST_NAME, to_markdown
from fashiontl.data import Task, find_task
from fashiontl.models.registry import members
from fashiontl.reports.leaderboard.markdown import TextColumn
from fashiontl.reports.leaderboard.rows import Row

_SHORT = {"mean": "mean of {}", "joined": "joined {}"}
# Of a hybrid's name; about as long as the names of other architectures.
_LONGEST = 24


@dataclass(frozen=True)
class Names:
    """The names of a section.

    Attributes:
        letters: what stands for the members of hybrids whose own names would widen every table.
        hybrids, variants: whether any cell has one.
        devices: whether there are several; a single one is in the section's title already, as the machine.
    """

    letters: dict[tuple[str, ...], str]
    hybrids: bool
    variants: bool
    devices: bool

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Names":
        """Names for these rows, letters in their order."""
        architectures = list(dict.fromkeys(row.record.case.architecture for row in rows))
        long = dict.fromkeys(members(name) for name in architectures if members(name) and len(name) > _LONGEST)
        return cls(
            {combined: _letter(index) for index, combined in enumerate(long)},
            any(map(members, architectures)),
            any(row.record.case.variant for row in rows),
            len({row.record.case.device for row in rows}) > 1,
        )

    def architecture(self, name: str) -> str:
        """An architecture's name in Markdown."""
        letter = self.letters.get(members(name)) if len(name) > _LONGEST else None
        return _SHORT[name.partition(":")[0]].format(letter) if letter else to_markdown(name, LONGEST_NAME)

    def columns(self, cases: Sequence[Case], *which: str) -> list[TextColumn]:
        """The columns that say which cell a line is: those named, or by default all, and what tells variants apart."""
        found = {
            "Architecture": [self.architecture(case.architecture) for case in cases],
            "Policy": [to_markdown(case.policy, LONGEST_NAME) for case in cases],
            "Weights": [weights_name(case.weights) for case in cases],
            # Empty without any, since `—` would mean unknown.
            "Variant": [" ".join(map(to_markdown, case.variant)) for case in cases],
            "Device": [to_markdown(case.device, LONGEST_NAME) for case in cases],
        }
        shown = [*(which or list(found)[:3]), *["Variant"] * self.variants, *["Device"] * self.devices]
        return [TextColumn(title, found[title]) for title in shown]

    def legend(self) -> str:
        """What hybrids, their letters and variants are; empty without any."""
        found = []
        if self.hybrids:
            letters = [f" {letter} is {' + '.join(map(to_markdown, those))}." for those, letter in self.letters.items()]
            found.append(
                "**Hybrids**: *mean* averages the probabilities of networks that were trained each on its own; "
                f"*joined* is one head on their joined features.{''.join(letters)}"
            )
        if self.variants:
            found.append(
                f"**Variant**: what of precision, memory format, execution, image size and batch differs from "
                f"{', '.join((PRECISIONS[0], MEMORY_FORMATS[0], EXECUTIONS[0]))} and the settings below."
            )
        return "\n\n".join(found)


@functools.lru_cache(maxsize=1024)
def weights_name(weights: str) -> str:
    """In Markdown; of a path its last part."""
    return to_markdown(PurePath(weights).name, LONGEST_NAME)


def known_task(name: str) -> Task | None:
    """The task of a name, without its images a class; None when this process does not know it, as one of a user."""
    try:
        return find_task(name.partition("@")[0])
    except FashiontlError:
        return None


def class_names(task: str, count: int) -> Sequence[str]:
    """Names of a task's classes; their numbers when this process does not know the task, or knows it otherwise."""
    known = known_task(task)
    return known.class_names if known and len(known.class_names) == count else tuple(map(str, range(count)))


def _letter(index: int) -> str:
    turn, place = divmod(index, len(string.ascii_uppercase))
    return string.ascii_uppercase[place] + (str(turn + 1) if turn else "")
