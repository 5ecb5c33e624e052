"""One job from its spec to its summary.

Imports the rooms below it, and builds the engine; `verbs` is its neighbour.
Read `runner.py` first, then `assembly.py`.
"""
