"""A verdict as people and machines read it: terminal, pull request, GitHub's commands, JUnit. No torch."""

from fashiontl.gate.report.actions import annotations, write_github
from fashiontl.gate.report.comment import MARKER, markdown
from fashiontl.gate.report.junit_xml import junit
from fashiontl.gate.report.screen import terminal

__all__ = ["MARKER", "annotations", "junit", "markdown", "terminal", "write_github"]
