import io

import pytest

from fashiontl.core.encoding import print_plainly, printable


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "91.0\xa0± 2.0 — \\udce9"),
        ("latin-1", "91.0\xa0± 2.0 - \\udce9"),
        ("ascii", "91.0 +/- 2.0 - \\udce9"),
    ],
)
def test_what_a_stream_cannot_encode_is_shown_plainly(encoding: str, expected: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    assert printable("91.0\xa0± 2.0 — \udce9", stream) == expected
    print_plainly(stream, object())
    print("91.0\xa0± 2.0 — \udce9", end="", file=stream, flush=True)
    assert stream.buffer.getvalue().decode(encoding) == expected  # type: ignore[attr-defined]
