"""Weights that stay in a GGUF file's blocks: linear layers and embeddings over them.

Imports `kernels`, numpy and torch; `gguf` (the package) where there is no compiler.
Read `weight.py` first, then `product.py`; `layers.py` holds the modules, `rounding.py` the oracle.
"""
