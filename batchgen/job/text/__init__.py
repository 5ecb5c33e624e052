"""Between rows and token ids: tokenizers, stop strings, requests.

Imports `templates`, `model`, `answers`, `decisions` and the values of `job`.
Read `requests.py` first, then `text_codec.py` and `tokenizer.py`.
"""
