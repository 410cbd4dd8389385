"""From option texts to validated cells, and the entries that users add to the tables.

May import everything below it, `records` and down; it never imports torch.
"""
