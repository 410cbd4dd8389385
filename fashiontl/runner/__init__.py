"""How cells become records: the worker processes, the phases that run in them, and the rounds in which cells are timed.

May import `matrix` and everything below it. `server`, `workload` and `phases` need torch; the others run without it.
"""
