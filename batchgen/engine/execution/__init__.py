"""One step on a device: packed into tensors, run, sampled.

Imports `scheduling`, `sampling`, `attention` and `parallel`.
Read `step_runner.py` first: the seam behind which a faster runner fits.
"""
