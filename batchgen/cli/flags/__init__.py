"""Flags: what each is called, takes and says in the help, and the job that they make together.

Imports `engine` and `job`.
Read `flag.py` first, then `job.py`.
"""
