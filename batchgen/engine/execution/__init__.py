"""One step on a device: packed into tensors, run, sampled.

Imports `scheduling`, `sampling`, `attention` and `parallel`.
Read `step_runner.py` first: `StepRunner` is the interface of every runner.
"""
