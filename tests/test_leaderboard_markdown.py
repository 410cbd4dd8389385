from typing import Literal

from hypothesis import given
from hypothesis import strategies as st
from tabulate import tabulate

from fashiontl.reports.leaderboard.markdown import TextColumn, table

TEXTS = st.text("ab \xa0±—★|*", max_size=9)
Align = Literal["left", "right"]


@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=9), st.sampled_from(["left", "right"])), min_size=1, max_size=4
    ),
    st.data(),
)
def test_a_table_is_as_tabulate_makes_it(columns: list[tuple[str, Align]], data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.tuples(*(TEXTS for _ in columns)), min_size=1, max_size=5))
    headers, aligns = zip(*columns, strict=True)
    texts = list(zip(*lines, strict=True))
    made = table([TextColumn(*each) for each in zip(headers, texts, aligns, strict=True)])
    assert made == tabulate(lines, headers, tablefmt="pipe", colalign=aligns, disable_numparse=True)
