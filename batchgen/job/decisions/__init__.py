"""One of several labels by its probability: a row's `choices` and `questions`, without sampling.

Imports the plain values of both halves; knows no tokenizer, only the ids that one made.
Read `labels.py` first: it says what a label's probability is.
"""
