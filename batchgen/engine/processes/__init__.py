"""Engines as processes of their own, one a device, behind the same `request.Engine`.

Imports `run` (in the child alone) and the plain values of `engine`; the parent needs no torch.
Read `fleet.py` first, then `worker.py`: what runs in the child.
"""
