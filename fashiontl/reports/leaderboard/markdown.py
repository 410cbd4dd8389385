"""Text and tables in GitHub's Markdown."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from fashiontl.core.escape import to_html

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class TextColumn(NamedTuple):
    """One column of a table as it is shown.

    Attributes:
        header: in Markdown.
        texts: one a line, in Markdown.
        align: numbers stand to the right.
    """

    header: str
    texts: Sequence[str]
    align: Literal["left", "right"] = "left"


def table(columns: Sequence[TextColumn]) -> str:
    """A table in GitHub's form; headers need not differ.

    It is what tabulate makes of the same texts, which takes several times as long for very many lines.
    """
    padded, dashes = [], []
    for column in columns:
        texts = [text.strip() for text in column.texts]
        width = max(len(column.header) + 2, max(map(len, texts), default=0))
        right = column.align == "right"
        pad = str.rjust if right else str.ljust
        padded.append([pad(column.header, width), *[pad(text, width) for text in texts]])
        dashes.append("-" * (width + 1) + ":" if right else ":" + "-" * (width + 1))
    header, *lines = zip(*padded, strict=True)
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "|".join(dashes) + "|", *texts])


def folded(title: str, *parts: str) -> str:
    """Parts that show when a person opens them."""
    return "\n\n".join([f"<details><summary>{to_html(title)}</summary>", *parts, "</details>"])


def short_digest(digest: object, length: int = 12) -> str:
    """The beginning of a SHA as code; in a record that others wrote it may be anything.

    >>> short_digest("14410854cf7a2b"), short_digest("| `")
    ('`14410854cf7a`', '`???`')
    """
    return f"`{re.sub('[^0-9A-Za-z]', '?', str(digest)[:length])}`"


def superscript(number: int) -> str:
    """A footnote's mark.

    >>> superscript(12)
    '¹²'
    """
    return str(number).translate(_SUPERSCRIPTS)
