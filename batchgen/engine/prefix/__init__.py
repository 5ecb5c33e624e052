"""What rows have in common: hashes of their blocks, the blocks that hold them, the order of rows.

Imports `request` and the standard library.
Read `block_hashes.py` first, then `block_index.py`; `ordering.py` is the tree of a window's rows.
"""
