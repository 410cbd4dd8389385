"""Networks as named stages: torchvision's families, timm's models, ensembles, and the weights they start from.

May import `data`, `machine` and `core`. `registry` can be read without torch.
"""
