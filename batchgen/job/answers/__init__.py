"""What a model's answer is made of: its thinking, its text, its calls of tools.

Imports `engine.request` and the values of `job`; it knows tokenizers by what it asks of them.
Read `marks.py` first, then `thinking.py`.
"""
