"""The checkpoint folder: its layout, manifest, journal and parts of finished rows.

Imports `stores` and the values of `job`.
Read `layout.py` first, then `parts.py` and `journal.py`.
"""
