"""Everything people read that is made from records: the leaderboard, the listing, the progress line.

May import `runner` and everything below it, and needs no torch to render.
"""
