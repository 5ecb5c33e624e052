"""Linear layers whose weights stay in 8 or 4 bits: formats, layouts, products, and their proof.

Imports `errors` and `counts`; torch and, on a GPU, triton.
Read `scheme.py` first, then `integers.py`, `float8.py` and `linear.py`.
"""
