"""Attention over the paged KV cache: one interface, one oracle, several backends.

Imports torch; knows no model, no scheduler and no request.
Read `interface.py` first, then the oracle, `reference.py`; `cpu/` and `triton/` must equal it.
"""
