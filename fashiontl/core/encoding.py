"""Text for streams that cannot encode all of it, as under `LC_ALL=C`: what is printed must not fail, nor be lost."""

import codecs
from typing import Any

_ERRORS = "fashiontl.plain"
# What stands for characters that tables and messages are made of.
_PLAIN = {"±": "+/-", "—": "-", "…": "...", "\xd7": "x", "µ": "u", "\xa0": " ", "★": "*"}


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = (_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in text)
    return "".join(plain), error.end


codecs.register_error(_ERRORS, _plainly)


def printable(text: str, stream: Any) -> str:
    r"""Text as a stream can encode it: with the nearest plain characters, and escapes where there are none.

    >>> import io
    >>> printable("91.0 ± 2.0 — \u03b1 \udce9", io.TextIOWrapper(io.BytesIO(), "ascii"))
    '91.0 +/- 2.0 - \\u03b1 \\udce9'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, _ERRORS).decode(encoding)


def print_plainly(*streams: Any) -> None:
    """Have streams print as `printable` does what they cannot encode; streams of other kinds are left alone."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)
