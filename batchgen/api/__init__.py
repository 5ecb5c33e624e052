"""batchgen from Python: rows in, typed results out, and the file job by keywords.

Imports every room; torch only once an engine is loaded.
Read `llm.py` first, then `stream.py`.
"""
