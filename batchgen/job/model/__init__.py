"""A model's files before torch: where it lies, which one it is, its tokens and its defaults.

Imports nothing of the other rooms.
Read `files.py` first.
"""
