"""Parquet below what Arrow offers: row groups that several cores encode, joined to one file.

Imports `job`'s schema.
Read `row_groups.py` first.
"""
