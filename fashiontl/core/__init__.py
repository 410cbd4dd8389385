"""The vocabulary that everything else shares: cells and settings, metrics, errors, statistics of slices and accuracies.

Pure Python: no torch, no pandas, no input or output beyond `core.files`. It imports nothing of fashiontl.
"""
