"""Sources to parsed rows, streaming, in input order; a bad row is an error in its own place.

Imports `fields`, `stores` and the values of `job`; `flow` is its neighbour.
Read `reader.py` first, then `source.py` and `sources.py`.
"""
