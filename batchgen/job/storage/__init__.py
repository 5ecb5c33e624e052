"""The ledger's files on disk: manifest, journal, parts, lock, layout, the output and its merge.

Imports `stores`, `parquet` and the values of `job`.
Read `layout.py` first, then `parts.py` and `journal.py`.
"""
