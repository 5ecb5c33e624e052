"""Sources to parsed rows, streaming, in input order; a bad row is an error in its own place.

Imports `text`, `parsing`, `decisions`, `model` and the values of `job`; `flow` is its neighbour.
Read `reader.py` first, then `row_parser.py`.
"""
