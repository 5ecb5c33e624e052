"""The ledger's files on disk: manifest, journal, parts, lock, layout, the output and its merge.

Imports the values of `job` alone.
Read `layout.py` first, then `parts.py` and `journal.py`.
"""
