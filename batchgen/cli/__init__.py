"""The command line: parsing and messages only. Never imports torch.

Imports `job`, `report`, `cluster` and `selftest` inside commands. Each command is the file of its
name.
Read `main.py` first (which commands there are), then `flags/job.py` and `run.py`.
"""
