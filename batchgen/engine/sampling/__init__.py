"""From logits to tokens, on either device, without a generator.

Imports `scheduling` (steps and sequences) and torch.
Read `sampler.py` first, then `batch.py`, what it is given, and `table.py`, which makes that of the
rows of a step; `triton/` must equal it.
"""
