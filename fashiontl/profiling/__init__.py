"""Where the time of a step goes: torch's profiler, in a pass of its own, as tables and as a trace."""

from fashiontl.profiling.steps import profile_steps, profiler_is_on

__all__ = ["profile_steps", "profiler_is_on"]
