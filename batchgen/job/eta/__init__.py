"""How long a run still takes: what was seen of it, what is left, the last rows played through.

Imports none of the other rooms.
Read `time_left.py` first, then `rest.py`; `history.py` (how fast), `lengths.py` (how much of their
`max_tokens` rows use) and `order.py` (whether that changes) are what they ask.
"""
