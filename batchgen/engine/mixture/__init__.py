"""Mixture-of-experts (MoE) layers on CUDA: recognised, computed by grouped products, and proven.

Imports `causes`, `counts`, `engine.quantization`; torch and, on a GPU, triton.
Read `form.py` first, then `layer.py` and `products.py`; of routers `choice.py`, then `router.py`.
"""
