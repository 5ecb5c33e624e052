"""What the fields of a row mean: its prompt or chat, its parameters and settings, what is kept.

Imports `templates`, `answers`, `decisions`, `model` and the values of `job`; knows no file.
Read `row_parser.py` first, then `params.py` and `settings.py`.
"""
