"""The GPU's attention backend: paged cache, one kernel for prompt chunks and decode.

Imports `attention`, torch and triton.
Read `paged.py` first, then `kernels.py`; `plan.py` says which program works on what.
"""
