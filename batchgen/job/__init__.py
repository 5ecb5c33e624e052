"""The job half: rows in, rows out. Knows files, text and resume; never imports torch.

Imports its own rooms and `engine.request`; `run` alone builds an engine. The modules
here are values that every room passes (`spec`, `rows`, `schema`, `shard`) and means that several
share (`redaction`, `quoting`).
Read `spec.py` and `rows.py` first, then `run/runner.py`.
"""
