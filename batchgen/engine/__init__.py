"""The engine half: token ids in, token ids out. Knows no files and no text.

Imports its own rooms, `startup` and the errors; never `job`, `report` or `cli`. `request`,
`config` and the other plain values here are what every room uses; `engine`, `factory`, `loader`,
`optimizing`, `runners`, `tensor_parallel`, `cache_size` and `echo` are its face and use every room.
Read `request.py` (the seam to the job half) first, then `engine.py`, then
`scheduling/scheduler.py`.
"""
