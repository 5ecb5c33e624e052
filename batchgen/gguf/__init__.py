"""What a GGUF file says: its metadata and tensors as a transformers config, or why not. No torch.

Imports errors, `gguf_header` and the standard library; of `startup` which compiler there is.
Read `reading.py` first, then `tensors.py` and `ropes.py`; `architectures/` puts them together.
"""
