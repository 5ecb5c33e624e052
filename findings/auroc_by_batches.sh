#!/usr/bin/env bash
# How well a judge's log-odds of "yes" tell 400 right answers from wrong ones (AUROC, average precision, accuracy
# at a log-odds of 0), the same rows in the same order, counted by torchmetrics in batches of five sizes.
#
# Seen with torchmetrics 1.9.0, torch 2.13.0, scikit-learn 1.9.1:
#   `update` takes what it is given for logits, and puts it through a sigmoid, if a number of the batch lies
#   outside of 0 to 1, and for probabilities otherwise. So a batch whose log-odds all happen to lie between 0 and 1
#   stays as it is among batches that became probabilities. Row by row the AUROC of these is 0.825, by twos 0.869,
#   by fours 0.886, and by eights or all at once 0.897, as scikit-learn has it in any size. Of accuracy a log-odds
#   of 0.3, alone, is "no", and beside one of 2 it is "yes". Through a sigmoid of one's own, rows in batches of
#   all sizes are equal. Nothing is said.
# So a judge looks worse in a run that scored row by row than in one of large batches, and two models that were
# scored in batches of different sizes are not compared. Give probabilities, or gather all rows before `update`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$work"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import torch
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

ROWS = 400
SIZES = (1, 2, 4, 8, ROWS)
KINDS = (BinaryAUROC, BinaryAveragePrecision, BinaryAccuracy)
draw = np.random.default_rng(0)
right = draw.integers(0, 2, ROWS)
odds = (draw.normal(size=ROWS) * 0.6 + right - 0.1).astype(np.float32)


def scores(given, size):
    """The three scores of all rows, handed over in batches."""
    metrics = [kind() for kind in KINDS]
    for start in range(0, ROWS, size):
        batch = torch.tensor(given[start : start + size]), torch.tensor(right[start : start + size])
        for metric in metrics:
            metric.update(*batch)
    return [round(float(metric.compute()), 4) for metric in metrics]


wanted = roc_auc_score(right, odds), average_precision_score(right, odds), accuracy_score(right, odds > 0)
wanted = [round(float(score), 4) for score in wanted]
chances = 1 / (1 + np.exp(-odds))
print(*(f"{name} {version(name)}" for name in ("torchmetrics", "torch", "scikit-learn")), sep=", ")
print("                       ", *(kind.__name__ for kind in KINDS))
print("scikit-learn            ", wanted)
seen = {}
for size in SIZES:
    seen[size] = scores(odds, size)
    print(f"log-odds by {size:3}         ", seen[size])
    assert scores(chances, size) == wanted
print("probabilities, any size ", wanted)


def says_yes(batch):
    return BinaryAccuracy()(torch.tensor(batch), torch.ones(len(batch), dtype=torch.int)).item() == 1


print("0.3 is yes: alone", says_yes([0.3]), "and beside 2", says_yes([0.3, 2.0]))
assert not says_yes([0.3]) and says_yes([0.3, 2.0])
assert seen[ROWS] == wanted
aurocs = [seen[size][0] for size in SIZES]
assert aurocs == [0.8254, 0.8687, 0.8858, 0.8969, 0.8969], aurocs
assert all(seen[size] != wanted for size in (1, 2, 4))
PY
