"""The job half: rows in, rows out. Knows files, text and resume; never imports torch.

Imports its own rooms, `engine.request` and, to build an engine, `engine.factory`. The modules
here are values that every room passes (`spec`, `rows`, `schema`, `shard`) and means that all
share (`files`, `faults`, `redaction`).
Read `spec.py` and `rows.py` first, then `run/runner.py`.
"""
