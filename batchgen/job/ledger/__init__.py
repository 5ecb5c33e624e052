"""Which rows are done, and their answers, whatever happens to the process.

Imports `output`, `storage`, `locking`, `stores`, `templates` and `model`.
Read `ledger.py` first: its head lists the invariants that keep rows safe.
"""
