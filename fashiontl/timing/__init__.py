"""How long something takes and how much it computes: slices, loops, warm-up, batch sweep, FLOPs, peak, variants.

May import `freezing`, `models`, `data`, `machine` and `core`. Slices and loops are handed functions and a clock, and
know nothing of torch.
"""
