"""What a person sees on a terminal: tables of a few aligned lines.

Imports `job`.
Read `run_summary.py` first.
"""
