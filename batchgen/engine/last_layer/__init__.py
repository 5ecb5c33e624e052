"""The last decoder layer, of whose answers a step uses few: those of the tokens whose logits are
asked. Of all others it is to write keys and values, for later steps to read.

Imports `engine.model`.
Read `binding.py` first, then `layer.py`.
"""
