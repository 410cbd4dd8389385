"""How long something takes and how much it computes: loops, warm-up, batch sweeps, FLOPs, peak, variants.

May import `freezing`, `models`, `data`, `machine` and `core`. The loops are handed functions and a clock, and know
nothing of torch.
"""
