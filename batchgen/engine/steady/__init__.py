"""`--deterministic`: every row's logits are a function of its own tokens alone, bit for bit. The
field calls it batch invariance; a *steady* part sums in an order that does not depend on the step.

Imports `model`, `attention`, the buckets of `cuda` and torch; triton only where there is a GPU.
Read `checks.py` first: what is made so, what is refused by name, and the proof at load.
"""
