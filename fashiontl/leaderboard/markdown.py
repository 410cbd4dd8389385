"""Text and tables in GitHub's Markdown."""

import functools
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

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
    return "\n\n".join([f"<details><summary>{title}</summary>", *parts, "</details>"])


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


def code(text: str) -> str:
    """Text as code; backticks in it need a longer fence."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return fence + pad + text + pad + fence


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
