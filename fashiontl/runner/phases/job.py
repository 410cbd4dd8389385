"""What every phase takes."""

from collections.abc import Callable
from typing import Any

# Called with what is being done.
Progress = Callable[[str], None]
# What JSON holds: a case, settings and what earlier phases left.
Job = dict[str, Any]
