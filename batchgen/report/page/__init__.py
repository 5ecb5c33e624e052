"""A finished output as one page of charts, as numbers, and as lines of text.

Imports `job` and its rooms, numpy and pyarrow; no torch.
Read `figures.py` first, then `html.py`.
"""
