"""What a GGUF file says: its metadata and tensors as a transformers config, or why not. No torch.

Imports errors and `gguf_header`; the standard library.
Read `plan.py` first, then `reading.py` and one architecture, `architectures/llama.py`.
"""
