"""What this machine and this installation are fit for, told without torch.

Imports `devices`, `startup` and `job.model`.
Read `doctor.py` first.
"""
