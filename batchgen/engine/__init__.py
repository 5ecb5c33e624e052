"""The engine half: token ids in, token ids out. Knows no files and no text.

Imports `startup` and the errors; never `job`, `report` or `cli`. `request`, `config` and the other
plain values here are what every room uses.
Read `request.py` (the seam to the job half) first, then `run/engine.py` and
`scheduling/scheduler.py`.
"""
