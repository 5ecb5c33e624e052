"""Engines as processes of their own, one a device, behind the same `request.Engine`.

Imports the face of `engine` (in the child alone) and its plain values; the parent needs no torch.
Read `fleet.py` first, then `worker.py`: what runs in the child.
"""
