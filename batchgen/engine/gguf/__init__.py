"""A planned GGUF file as a transformers module: weights dequantised and moved, its own rope put in.

Imports `batchgen.gguf` and `packed`; numpy, torch, transformers and the package of that name.
Read `module.py` first, then `oracle.py`, which reads the file a second time to check it.
"""
