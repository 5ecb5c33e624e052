"""The output: merged of parts, checked row by row, and there only once it is whole.

Imports `storage`, `parquet`, `stores` and the values of `job`.
Read `output.py` first, then `merge.py`.
"""
