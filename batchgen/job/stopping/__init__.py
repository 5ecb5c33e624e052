"""How a run learns that it has to end before its input does, and ends in time.

Imports `errors` alone: handlers stand before anything heavy is imported.
Read `signals.py` first: a `Stop` is a flag that a signal sets, or a deadline.
"""
