"""Structured output: grammars over tokens, which give the sampler a mask for each next token.

Imports `engine.request` and, where a row asks for it, llguidance.
Read `constraint.py` first.
"""
