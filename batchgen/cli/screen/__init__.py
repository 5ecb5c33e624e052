"""What a person sees on a terminal, a few aligned lines each time, and types there from habit.

Imports `job`.
Read `run_summary.py` first.
"""
