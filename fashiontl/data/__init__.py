"""The data axis: the tasks here, and in the modules below how their images are found, read and selected.

This package can be imported without torch and numpy, so that tasks can be listed and collected quickly.
"""

from fashiontl.data.tasks import TASKS, Task, find_task

__all__ = ["TASKS", "Task", "find_task"]
