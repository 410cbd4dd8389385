"""One pytest session of a bench: its options, which tests there are, in which order, with which processes.

May import `doctor` and everything below it. `entry` is loaded by pytest in every project, so it imports nothing else.
"""
