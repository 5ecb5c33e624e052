"""How long a run still takes: what was seen of it, how long rows become, the rest played through.

Imports nothing of `batchgen`.
Read `time_left.py` first, then `rest.py`; `history.py` and `lengths.py` are what they ask.
"""
