"""Proofs that users run on their own machine; each drives real processes of batchgen.

Imports `job`, whose files it audits.
Read `crash.py` first (kills), then `fuzz.py` (bad inputs) and `soak.py` (memory).
"""
