"""Which tokens the next step computes: scheduler, admission, block manager, sequences, steps.

Imports `engine.prefix`, `engine.request` and the errors: standard library only, no tensors, so that
it is tested in milliseconds.
Read `scheduler.py` first: a step is `{sequence: num_tokens}`.
"""
