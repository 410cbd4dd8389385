"""Text and tables in GitHub's Markdown."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from fashiontl.core.escape import to_html

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class TextColumn(NamedTuple):
    """One column of a table, in Markdown; numbers stand to the right."""

    header: str
    texts: Sequence[str]
    align: Literal["left", "right"] = "left"


def table(columns: Sequence[TextColumn]) -> str:
    """A table in GitHub's form, as tabulate makes it whatever else is installed; headers need not differ."""
    lines = [""] * (2 + max(len(column.texts) for column in columns))
    for column in columns:
        texts = [column.header, *(text.strip() for text in column.texts)]
        width = max(len(column.header) + 2, *map(len, texts))
        right = column.align == "right"
        padded = [f"| {text.rjust(width) if right else text.ljust(width)} " for text in texts]
        padded.insert(1, "|" + ("-" * (width + 1) + ":" if right else ":" + "-" * (width + 1)))
        lines = [line + part for line, part in zip(lines, padded, strict=True)]
    return "\n".join(f"{line}|" for line in lines)


def folded(title: str, *parts: str) -> str:
    """Parts that show when a person opens them."""
    return "\n\n".join([f"<details><summary>{to_html(title)}</summary>", *parts, "</details>"])


def short_digest(digest: object, length: int = 12) -> str:
    """The beginning of a SHA as code; in a record that others wrote it may be anything."""
    return f"`{re.sub('[^0-9A-Za-z]', '?', str(digest)[:length])}`"


def superscript(number: int) -> str:
    """A footnote's mark."""
    return str(number).translate(_SUPERSCRIPTS)
