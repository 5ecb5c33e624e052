"""From a model's files to a transformers module on its device: as stored, packed, or rounded.

Imports what weights come as (`quantization`, `mixture`, `packed`, `gguf`, `parallel`);
transformers and torch.
Read `folder.py` first, then `packed_folder.py` and `gguf.py`.
"""
