"""Layers of experts on CUDA: what such a layer computes, found, multiplied in groups, and proven.

Imports `causes`, `counts`, `engine.quantization`; torch and, on a GPU, triton.
Read `form.py` first, then `layer.py` and `products.py`.
"""
