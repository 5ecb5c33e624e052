"""On a GPU: products, norms and attention whose sums have one order, whatever the step holds.

Imports `cpu`'s joined layers, the Triton attention, torch and triton.
Read `parts.py` first: what is put in the place of which module.
"""
