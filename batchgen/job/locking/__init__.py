"""One writer for one output: a lock, claims that number their owners, and a fence.

Imports `stores`.
Read `lock.py` first, then `claims.py`.
"""
