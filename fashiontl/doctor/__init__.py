"""`fashiontl doctor`: can this machine measure, how small a difference can it detect, and what is here.

What needs torch runs in the worker, in processes like those of cases.
"""

from fashiontl.doctor.examination import examine
from fashiontl.doctor.findings import Line, Report, Section, to_json, to_text
from fashiontl.doctor.surroundings import equipment

__all__ = ["Line", "Report", "Section", "equipment", "examine", "to_json", "to_text"]
