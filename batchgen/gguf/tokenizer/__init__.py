"""A file's vocabulary as llama.cpp reads it: special tokens, pre-tokenizers, merges. No torch.

Imports errors; the `tokenizers` package where one is built.
Read `vocabulary.py` first, then `build.py`, `byte_level.py` and `sentencepiece.py`.
"""
