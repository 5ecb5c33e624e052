"""One job from its spec to its summary.

Imports every room but `verbs`, and builds the engine.
Read `runner.py` first, then `assembly.py`.
"""
