"""Escape text for the forms of output that this program writes: a function for each form.

Names, reasons, notes and paths come from records, options, branches, libraries and files, and may hold anything. It is
shown, and nothing of it takes effect: no colour on a terminal, no command of a CI runner, no markup.
"""

import functools
import hashlib
import html
import json
import re
from typing import Any

# Of a text in one line of Markdown; of names, which stand in narrow columns; of a file's name, in bytes, where some
# file systems take 143 and something is put behind it.
_LONGEST_MARKDOWN = 500
LONGEST_NAME = 120
_LONGEST_FILE_NAME = 100
# GitHub cuts an annotation's message there.
_LONGEST_MESSAGE = 4096

# White space that is more than spaces.
_BREAKS = re.compile(r" *[^\S ]\s*")

# GitHub's runner takes `::` at a line's beginning for a command, behind spaces too; and `##[` anywhere. Azure's takes
# `##vso[`, TeamCity's `##teamcity[`.
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\w*\[)", re.MULTILINE)

# In Markdown a backslash in front makes these themselves: what marks up, cells' ends, formulas, underscores at a word's
# edge (others are themselves), what at a line's beginning would make a list, heading, quotation or command, a closing
# heading, and what makes links of addresses.
_MARKING = re.compile(r"[\\`*|\[\]~$]|(?:\b_+|_+\b)|^[-+>#=]|^:(?=:)|#+$|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
# GitHub makes links of these, and tells the person named, after Markdown has been read, so only a character between
# helps: mentions, addresses of mail, numbers of issues, and names of emoji.
_LINKING = re.compile(
    r"(?<!\w)@(?=\w)|(?<=[\w.+-])@(?=[\w-]+\.\w)|#(?=\d)|\bGH-(?=\d)|:(?=(?:[a-z+-][\w+-]*|\d{3,4}):)", re.IGNORECASE
)
_JOINER = "\N{WORD JOINER}"

# What XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_line(text: str, longest: int = 0) -> str:
    r"""Text as one line of plain text.

    White space other than spaces becomes one space, and what is not printable (control characters, turns of the
    writing direction, characters without width, halves of surrogate pairs) U+FFFD. Of more letters than `longest`,
    unless that is 0, the end becomes an ellipsis.

    >>> to_line("one\r\n::error::two\u202e", 8)
    'one ::e…'
    """
    if not (text.isascii() and text.isprintable()):
        text = _BREAKS.sub(" ", text)
        text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    text = text.strip()
    return text[: longest - 1] + "…" if 0 < longest < len(text) else text


def to_terminal(text: str) -> str:
    """A whole message or screen for a terminal, of which no line is a command to the runner of a CI system."""
    lines = text.replace("\r\n", "\n").split("\n")
    shown = [
        "".join(letter if letter.isprintable() else " " if letter.isspace() else "\ufffd" for letter in line)
        for line in lines
    ]
    return _COMMAND.sub(lambda found: f"{found[0]} ", "\n".join(shown))


def to_terminal_line(text: str) -> str:
    """Text that is a line of its own on a terminal."""
    return to_terminal(to_line(text))


# A page repeats few names many times.
@functools.lru_cache(maxsize=4096)
def to_markdown(text: str, longest: int = _LONGEST_MARKDOWN) -> str:
    """Text as GitHub's Markdown that shows it as it is, on one line and within a table's cell; as long as `to_line`."""
    text = to_line(" ".join(text.split()), longest)
    text = _MARKING.sub(lambda found: "".join(f"\\{letter}" for letter in found[0]), text)
    text = _NUMBERED.sub(r"\1\\\2", text)
    text = _LINKING.sub(lambda found: found[0] + _JOINER, text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def to_code(text: str, longest: int = 2 * _LONGEST_MARKDOWN) -> str:
    """Text as code in Markdown outside of tables; backticks in it need a longer fence."""
    text = to_line(text, longest)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if not text or text.startswith("`") or text.endswith("`") else ""
    return fence + (pad + text + pad if text else pad) + fence


def to_html(text: str) -> str:
    """Text within an element or a quoted attribute of HTML."""
    return html.escape(to_line(text))


def to_xml(text: str) -> str:
    """Text that XML 1.0 can hold; quoting is the writer's part."""
    return _NOT_XML.sub("\ufffd", text)


def to_terminal_json(value: Any) -> str:
    """JSON for a terminal: all in ASCII, and no command to a CI system's runner; a ValueError if not finite."""
    # Two number signs in a row stand in texts only.
    return json.dumps(value, indent=2, allow_nan=False).replace("##", "#\\u0023")


def workflow_command(level: str, title: str, message: str) -> str:
    """One of GitHub's workflow commands on one line, escaped as @actions/core does."""
    # One line each, so that only these need an escape.
    title = to_line(title, LONGEST_NAME).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{to_line(message, _LONGEST_MESSAGE).replace('%', '%25')}"


def to_file_name(text: str, longest: int = _LONGEST_FILE_NAME) -> str:
    """One component of a path on any file system, or of an address: what may be objected to becomes `_`.

    Of a name of more bytes than `longest`, in UTF-8, the end is a hash of the whole.
    """
    name = re.sub(r"[^\w.+-]+", "_", text)
    # A point or hyphen in front hides a file, names a folder above or looks like an option.
    name = re.sub(r"^[.+-]|\.$", "_", name) or "_"
    if len(name.encode()) > longest:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        name = f"{name.encode()[: longest - 9].decode(errors='ignore')}-{digest}"
    return name
