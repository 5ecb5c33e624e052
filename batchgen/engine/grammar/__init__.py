"""What a row may say: grammars as states over tokens, which the sampler asks for masks.

Imports `engine.request` and, where a row asks for it, llguidance.
Read `constraint.py` first.
"""
