"""C sources of the CPU kernels, and their build.

Imports `startup` (where compiled code is kept) and torch.
Read `ops.py` first: the calls as Python sees them.
"""
