"""Between rows and token ids: chat template, tokenizer, rendering process, stop strings, requests.

Imports `model`, `answers`, `decisions` and the values of `job`.
Read `requests.py` first, then `template.py`.
"""
