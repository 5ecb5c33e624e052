"""What a GGUF file says: its metadata and tensors as a transformers config, or why not. No torch.

Imports errors and `gguf_header`; the standard library.
Read `reading.py` first, then `tensors.py` and `ropes.py`; `architectures/` puts them together.
"""
