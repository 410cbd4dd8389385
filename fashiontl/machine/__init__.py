"""The machine and its state: devices, environment, processor cores, conditions during a run, energy, locks.

Imports only `core`; torch is imported inside the functions that need it.
"""
