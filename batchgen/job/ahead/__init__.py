"""What can be said of a job before it runs, without torch: its prompts, its size, its time.

Imports `run`'s stages, `input`, `text` and `model`.
Read `preview.py` first, then `plan.py`.
"""
