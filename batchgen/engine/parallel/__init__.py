"""One model over several devices: a process a rank, of which the first one leads.

Imports torch, transformers and the engine's plain values.
Read `group.py` first, then `split_model.py`.
"""
