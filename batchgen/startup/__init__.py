"""What makes our own process start fast: caches, imports, work begun ahead. Stdlib only.

Imports no other room.
Read `importing.py` first, then `quick_transformers.py` and `lazy_modules.py` (what is not
imported), `ahead.py` and `kernels.py` (what is begun ahead), `timeline.py` (where time went).
"""
