"""The threads from reader to writer, and what watches them.

Imports `text`, `answers`, `decisions`, `eta`, `stopping` and the values of `job`; `input` is its
neighbour.
Read `pipeline.py` first, then `reader_stage.py`, `engine_stage.py` and `writer_stage.py`.
"""
