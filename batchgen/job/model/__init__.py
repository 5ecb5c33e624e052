"""A model's files before torch: where it lies, which one it is, its tokens and its defaults.

Imports `batchgen.gguf` and the values of `job`.
Read `files.py` first.
"""
