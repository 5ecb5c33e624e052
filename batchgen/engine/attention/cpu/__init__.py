"""The CPU's attention backends: a C kernel over pages, and the same in PyTorch alone.

Imports `attention` and `kernels`.
Read `paged.py` first.
"""
