"""What a person sees on a terminal, a few aligned lines each time.

Imports `job`.
Read `run_summary.py` first.
"""
