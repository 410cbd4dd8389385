"""The machine and its state: devices, environment, conditions of a cell, disturbance of a slice, energy, locks.

Imports only `core`; torch is imported inside the functions that need it.
"""
