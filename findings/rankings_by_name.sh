#!/usr/bin/env bash
# Documents found for questions by a model's scores, judged by nDCG and by the reciprocal rank: scores that
# are equal, that differ behind the seventh digit, that are NaN, and a question whose row failed and is not in
# the run; by pytrec_eval, by ir-measures, and by scikit-learn's `ndcg_score`.
#
# Seen with pytrec-eval-terrier 0.5.11, ir-measures 0.4.3, scikit-learn 1.9.1:
#   Of equal scores the first is, for both of trec_eval's heirs, the document whose name is last in the order
#   of letters: a model that gives every document one score is perfect if the right ones are named "z", and
#   finds them last if they are named "a". Scores are compared in 32 bits: 0.5 and 0.50000001 are equal, and
#   the names decide. scikit-learn gives the mean over all orders of equal scores, and sees the difference.
#   A document whose score is NaN is first or not by its name too, where scikit-learn raises. A question that
#   is not in the run is left out by pytrec_eval, so that the mean over its answer is 1 where half of the
#   questions failed; ir-measures counts it as 0. Nobody warns.
# So scores in half precision, which tie often, are judged by how documents are named, and a job that lost
# half its rows has a better mean than one that lost none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pytrec-eval-terrier==0.5.11 ir-measures==0.4.3 scikit-learn==1.9.1 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY' 2>said || { cat said; exit 1; }
from importlib.metadata import version

import ir_measures
import pytrec_eval
from ir_measures import RR, nDCG
from sklearn.metrics import ndcg_score

print(*(f"{name} {version(name)}" for name in ("pytrec-eval-terrier", "ir-measures", "scikit-learn")), sep=", ")


def judged(right, run):
    """nDCG and reciprocal rank by pytrec_eval and by ir-measures, and scikit-learn's nDCG or its error."""
    qrels = {question: {document: 1} for question, document in right.items()}
    rows = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg", "recip_rank"}).evaluate(run).values()
    by_pytrec = tuple(sum(row[name] for row in rows) / len(rows) for name in ("ndcg", "recip_rank"))
    found = ir_measures.calc_aggregate([nDCG, RR], qrels, run)
    by_sklearn = []
    for question, scores in run.items():
        gold = [[int(document == right[question]) for document in scores]]
        try:
            by_sklearn.append(float(ndcg_score(gold, [list(scores.values())])))
        except ValueError as error:
            by_sklearn = [type(error).__name__]
            break
    mean = by_sklearn[0] if isinstance(by_sklearn[0], str) else sum(by_sklearn) / len(by_sklearn)
    return [tuple(map(float, by_pytrec)), (float(found[nDCG]), float(found[RR])), mean]


def show(case, right, run):
    seen = judged(right, run)
    print(f"{case}: pytrec_eval {seen[0]}, ir-measures {seen[1]}, scikit-learn {seen[2]}")
    return seen


names = [f"d{place}" for place in range(8)]
one = dict.fromkeys(names, 0.5)
last = show("one score for all, the right one is named z", {"q": "z"}, {"q": {"z": 0.5} | one})
first = show("one score for all, the right one is named a", {"q": "a"}, {"q": {"a": 0.5} | one})
assert last[0] == last[1] == (1.0, 1.0)
assert first[0] == first[1] and first[0][1] == 1 / 9
assert last[2] == first[2] and 0.4 < last[2] < 0.6
near = show("the right one, a, is above by 1e-8", {"q": "a"}, {"q": {"a": 0.50000001} | one})
assert near[:2] == first[:2] and near[2] == 1.0
far = show("the right one, a, is above by 1e-6", {"q": "a"}, {"q": {"a": 0.500001} | one})
assert far == [(1.0, 1.0), (1.0, 1.0), 1.0]

nan = float("nan")
seen = {}
for wrong in ("a", "z"):
    run = {"q": {wrong: nan, "m": 0.5, "n": 0.1}}
    seen[wrong] = show(f"the right one is first of two, {wrong} is NaN", {"q": "m"}, run)
    assert seen[wrong][0] == seen[wrong][1] and seen[wrong][2] == "ValueError"
assert {seen[wrong][0][1] for wrong in seen} == {1.0, 0.5}

right = {f"q{place}": "a" for place in range(10)}
run = {question: {"a": 0.9, "b": 0.1} for question in list(right)[:5]}
lost = show("half of the questions are not in the run", right, run)
assert lost[0] == (1.0, 1.0) and lost[1] == (0.5, 0.5)
PY
