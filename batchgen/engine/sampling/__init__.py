"""From logits to tokens, on either device, without a generator.

Imports `scheduling` (steps and sequences) and torch.
Read `sampler.py` first.
"""
