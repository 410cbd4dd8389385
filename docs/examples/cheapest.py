"""A report section of one's own: the cell with the most accuracy for each trained parameter."""

from collections.abc import Sequence

from fashiontl.core.escape import to_markdown
from fashiontl.matrix.extensions import ReportSection, register
from fashiontl.records import Record


def render(records: Sequence[Record]) -> str:
    """Write Markdown about the records of one table, the most accurate first."""
    shares = {
        record.id: accuracy / parameters
        for record in records
        for accuracy in record.values("accuracy")[:1]
        for parameters in record.values("trainable_parameters")
    }
    if not shares:
        return "No cell was trained."
    best = max(shares, key=lambda cell: shares[cell])
    return f"{to_markdown(best)}: {100 * shares[best] * 1e6:.3g} points of accuracy for a million trained parameters."


register(ReportSection("cheapest", "cheapest:render"))
