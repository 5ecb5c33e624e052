"""What the command's own process is: its streams, log, threads, allocator, and the way out.

Imports `job` and `startup`.
Read `streams.py` first.
"""
