#!/usr/bin/env bash
# How far three judges agree on 200 rows of three labels, with all answers, without a tenth and without three tenths of
# them, drawn at random, as where a judge's answer could not be read; and where all judges say one thing of all
# rows: by the measures of five libraries.
#
# Seen with krippendorff 0.9.0, nltk 3.10.4, statsmodels 0.15.0, torchmetrics 1.9.0, scikit-learn 1.9.1:
#   With all answers Fleiss' kappa and Krippendorff's alpha are 0.81 everywhere. Without three tenths torchmetrics'
#   fleiss_kappa is 0.14: it takes every row for one of as many judges as the fullest has. nltk takes None for a label, and
#   statsmodels' aggregate_raters NaN, on which those agree who did not answer: 0.38, by alpha too.
#   scikit-learn refuses NaN, and takes the text "nan" for a label: 0.38. krippendorff leaves out what is missing,
#   and has 0.82; so has nltk's alpha without those entries, where its kappas raise; and statsmodels refuses a table of
#   counts that are not equal.
#   Where all judges say one thing of all rows, agreement is 1 for nltk, 0 for torchmetrics, NaN for statsmodels and
#   scikit-learn, which warns, and an error of krippendorff. Of missing answers nobody warns.
# So judges look at odds because some of their answers were cut, a filter "kappa above 0.6" drops the labels that were
# agreed on best, and two reports of one file differ by which library was at hand.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q krippendorff==0.9.0 nltk==3.10.4 statsmodels==0.15.0 torchmetrics==1.9.0 \
  scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import krippendorff
import numpy as np
import torch
from nltk.metrics.agreement import AnnotationTask
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
from torchmetrics.functional.nominal import fleiss_kappa as fleiss_of_counts

ROWS, LABELS, JUDGES = 200, 3, 3
draw = np.random.default_rng(0)
truth = draw.integers(0, LABELS, ROWS)
whole = np.array([np.where(draw.random(ROWS) < 0.9, truth, draw.integers(0, LABELS, ROWS)) for _ in range(JUDGES)])
places = draw.random((JUDGES, ROWS))


def entries(answers, keep):
    said = [[None if np.isnan(label) else int(label) for label in judge] for judge in answers]
    return [
        (f"judge {judge}", f"row {row}", label)
        for judge, labels in enumerate(said) for row, label in enumerate(labels) if keep or label is not None
    ]  # fmt: skip


def counts(answers):
    return np.array([[(row == label).sum() for label in range(LABELS)] for row in answers.T])


WAYS = {
    "krippendorff": lambda answers: krippendorff.alpha(answers, level_of_measurement="nominal"),
    "nltk, alpha, None": lambda answers: AnnotationTask(entries(answers, True)).alpha(),
    "nltk, kappa, None": lambda answers: AnnotationTask(entries(answers, True)).multi_kappa(),
    "nltk, alpha, left out": lambda answers: AnnotationTask(entries(answers, False)).alpha(),
    "nltk, kappa, left out": lambda answers: AnnotationTask(entries(answers, False)).multi_kappa(),
    "statsmodels, NaN": lambda answers: fleiss_kappa(aggregate_raters(answers.T)[0]),
    "statsmodels, counts": lambda answers: fleiss_kappa(counts(answers)),
    "torchmetrics, counts": lambda answers: float(fleiss_of_counts(torch.tensor(counts(answers)), mode="counts")),
    "scikit-learn, NaN": lambda answers: cohen_kappa_score(answers[0], answers[1]),
    "scikit-learn, text": lambda answers: cohen_kappa_score(*([str(label) for label in judge] for judge in answers[:2])),
}


def agreement(answers):
    found = {}
    for way, measure in WAYS.items():
        try:
            found[way] = round(float(measure(answers)), 2)
        except Exception as error:  # each library has a kind of its own
            found[way] = type(error).__name__
    return found


packages = ("krippendorff", "nltk", "statsmodels", "torchmetrics", "scikit-learn")
print(*(f"{name} {version(name)}" for name in packages), sep=", ")
seen = [agreement(np.where(places < missing, np.nan, whole)) for missing in (0.0, 0.1, 0.3)]
seen.append(agreement(np.ones((JUDGES, ROWS))))
print(f"{'':24}{'all':>20}{'less a tenth':>20}{'less three tenths':>20}{'one label':>20}")
for way in WAYS:
    print(f"{way:24}", *(f"{found[way]!s:>19}" for found in seen))
everything, _, less, equal = seen
assert all(0.79 <= value <= 0.83 for value in everything.values())
for found in seen[1:3]:
    assert 0.79 <= found["krippendorff"] == found["nltk, alpha, left out"] <= 0.87
    assert isinstance(found["nltk, kappa, left out"], str) and found["statsmodels, counts"] == "AssertionError"
    assert found["scikit-learn, NaN"] == "ValueError"
    assert found["nltk, alpha, None"] == found["nltk, kappa, None"] == found["statsmodels, NaN"] < 0.65
    assert found["torchmetrics, counts"] < found["statsmodels, NaN"] and found["scikit-learn, text"] < 0.65
assert less["statsmodels, NaN"] < 0.4 and less["torchmetrics, counts"] < 0.2 and less["scikit-learn, text"] < 0.4
assert equal["krippendorff"] == "ValueError" and equal["torchmetrics, counts"] == 0.0
assert {value for way, value in equal.items() if "nltk" in way} == {1.0}
assert all(np.isnan(value) for way, value in equal.items() if "statsmodels" in way or "scikit" in way)
PY
OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { tail -n 40 said; exit 1; }
