"""Training and judging one network: recipes, batches, the fit, reuse of a frozen prefix, pretraining, evaluation.

May import everything below it: `profiling`, `timing`, `freezing`, `models`, `data`, `machine`, `core`.
"""
