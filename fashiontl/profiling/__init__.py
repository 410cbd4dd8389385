"""Where the time of a step goes: torch's profiler, in a pass of its own, as tables of operators and as a trace.

May import `timing` and everything below it. `operators` can be read without torch.
"""
