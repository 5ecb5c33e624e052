"""An unmodified transformers decoder over the paged cache: loaded, discovered, bound and proven.

Imports `attention`, and what weights come as: `quantization`, `mixture`, `packed`, `gguf`,
`parallel`; transformers and torch.
Read `model.py` first, then `discovery.py`, `binding.py` and `proof.py`.
"""
