#!/usr/bin/env bash
# Files of short answers, each equal to its reference letter for letter, by BLEU and chrF in three libraries;
# 1 is a perfect score (100 for sacrebleu, divided here).
#
# Seen with sacrebleu 2.6.0, nltk 3.10.4, torchmetrics 1.9.0:
#   BLEU of a file whose rows have three words or fewer is 0 in all three, be it one right answer or 100;
#   with a row of four among them it is 1 for sacrebleu and torchmetrics, and 0.841 for nltk. Row by row
#   sacrebleu gives each of them 1, so that the mean of rows is 1 and the file 0; the other two give 0.
#   chrF of "yes" and "no" is 1 for sacrebleu, 0.5 for torchmetrics and 0.417 for nltk, which count what so
#   short a text cannot have, runs of four letters and more, as missed; of labels of one letter it is 0.167
#   for both. With longer rows in the file it is 1 for torchmetrics, not for nltk. nltk warns of BLEU.
# So the score of a perfect model depends on how short the right answers are, and the same rows have another
# score in each library, alone, in a file and in a file with longer ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 sacrebleu==2.6.0 nltk==3.10.4 torchmetrics==1.9.0
cd "$work"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version
from statistics import fmean

import sacrebleu
from nltk.translate import bleu_score as nltk_bleu
from nltk.translate.chrf_score import corpus_chrf
from torchmetrics.functional import text as torchmetrics

NAMES = ("sacrebleu", "nltk", "torchmetrics")
FILES = {
    "words": ["yes", "no"] * 50,
    "three words": ["the cat sat"] * 100,
    "three and four": ["the cat sat", "a dog ran off"] * 50,
    "letters": ["A", "B"] * 50,
    "a letter, a line": ["A", "it was the second of them all"] * 50,
}


def by_sacrebleu(rows):
    each = fmean(sacrebleu.sentence_bleu(row, [row]).score for row in rows)
    whole, chrf = sacrebleu.corpus_bleu(rows, [rows]), sacrebleu.corpus_chrf(rows, [rows])
    return each / 100, whole.score / 100, chrf.score / 100


def by_nltk(rows):
    words = [row.split() for row in rows]
    each = fmean(nltk_bleu.sentence_bleu([row], row) for row in words)
    return each, nltk_bleu.corpus_bleu([[row] for row in words], words), corpus_chrf(rows, rows)


def by_torchmetrics(rows):
    golds = [[row] for row in rows]
    each = fmean(float(torchmetrics.bleu_score([row], [[row]])) for row in rows)
    whole = torchmetrics.bleu_score(rows, golds)
    return each, float(whole), float(torchmetrics.chrf_score(rows, golds, n_word_order=0))


print(*(f"{name} {version(name)}" for name in NAMES), sep=", ")
seen = {}
for name, rows in FILES.items():
    print(name)
    found = [by_sacrebleu(rows), by_nltk(rows), by_torchmetrics(rows)]
    seen[name] = [tuple(round(score, 3) for score in scores) for scores in found]
    for library, (each, whole, chrf) in zip(NAMES, seen[name]):
        print(f"    {library:12} BLEU: mean of rows {each}, file {whole}; chrF {chrf}")
right, missed = 1.0, 0.0  # mean of rows, file, chrF, in the order of the libraries
assert seen == {
    "words": [(right, missed, right), (missed, missed, 0.417), (missed, missed, 0.5)],
    "three words": [(right, missed, right), (missed, missed, right), (missed, missed, right)],
    "three and four": [(right, right, right), (0.5, 0.841, right), (0.5, right, right)],
    "letters": [(right, missed, right), (missed, missed, 0.167), (missed, missed, 0.167)],
    "a letter, a line": [(right, right, right), (0.5, 0.869, 0.583), (0.5, right, right)],
}
PY
