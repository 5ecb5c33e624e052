"""What the command's own process is: its streams, log, threads, what it begins early, the way out.

Imports `engine`, `job` and `startup`.
Read `streams.py` first.
"""
