"""A planned GGUF file as a transformers module: weights dequantised and moved, its own rope put in.

Imports `batchgen.gguf`; numpy, torch, transformers and the `gguf` package.
Read `module.py` first, then `oracle.py`, which reads the file a second time to check it.
"""
