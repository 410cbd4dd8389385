"""How a cell becomes a record: the worker processes, the phases that run in them, and the order of both.

May import `matrix` and everything below it. `cell` and `client` run without torch; `server` and `phases` need it.
"""
