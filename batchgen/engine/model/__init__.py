"""An unmodified transformers decoder over the paged cache: discovered, bound and proven.

Imports `attention`, `parallel`, and of `packed`, `quantization` and `mixture` whether a module has
what they round; transformers and torch.
Read `model.py` first, then `discovery.py`, `binding.py` and `proof.py`.
"""
