#!/usr/bin/env bash
# Pairs of an answer and its gold label, as the measures that judge completions compare them: SQuAD's
# exact match and F1 (torchmetrics), exact match of lm-eval's that ignores case and punctuation (as its
# TriviaQA and MMLU-ProX do), and ROUGE (rouge-score, which `evaluate` takes; torchmetrics; rouge).
#
# Seen with torchmetrics 1.9.0, lm-eval 0.4.13, rouge-score 0.1.2, rouge 1.0.1:
#   Both exact matches drop all signs before they compare: -5 is 5, 1.5 is 15, 1/2 is 12, C++ is C#.
#   SQuAD's drops English articles too, so that the label "A" is nothing: an empty answer is right, and
#   so is "The", with an F1 of 100. The quotes “ and ” it keeps: “yes” is not yes.
#   rouge-score and torchmetrics know the letters a to z and digits alone: a right answer in Russian or
#   Chinese scores 0, and "Straße" is "Stra e". rouge gives it 1, but tells C++ from C#, and refuses
#   an answer that is a dot. Nobody warns.
# So of multiple choice the option A is right whenever the model wrote nothing, signs of numbers do not
# count, and a model that answers in another script scores 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0 lm-eval==0.4.13 rouge-score==0.1.2 \
  rouge==1.0.1 nltk==3.10.4
cd "$work"
HF_HOME=$work/hf venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

from lm_eval.api.metrics import exact_match_hf_evaluate
from rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text import rouge_score, squad


def by_squad(answer, gold, measure):
    predictions = [{"prediction_text": answer, "id": "1"}]
    golds = [{"answers": {"answer_start": [0], "text": [gold]}, "id": "1"}]
    return float(squad(predictions, golds)[measure]) / 100


def by_lm_eval(answer, gold):
    found = exact_match_hf_evaluate([answer], [gold], ignore_case=True, ignore_punctuation=True)
    return float(found["exact_match"])


def by_rouge(answer, gold):
    try:
        return round(Rouge().get_scores(answer, gold)[0]["rouge-1"]["f"], 3)
    except ValueError:
        return "refuses"


scorer = RougeScorer(["rouge1"])
MEASURES = {
    "squad exact": lambda answer, gold: by_squad(answer, gold, "exact_match"),
    "squad F1": lambda answer, gold: by_squad(answer, gold, "f1"),
    "lm-eval exact": by_lm_eval,
    "rouge-score": lambda answer, gold: scorer.score(gold, answer)["rouge1"].fmeasure,
    "torchmetrics": lambda answer, gold: float(
        rouge_score(answer, gold, rouge_keys="rouge1")["rouge1_fmeasure"]
    ),
    "rouge": by_rouge,
}
PAIRS = [
    ("-5", "5"),
    ("1.5", "15"),
    ("1/2", "12"),
    ("C++", "C#"),
    ("", "A"),
    ("The", "A"),
    ("B", "A"),
    ("“yes”", "yes"),
    ("верно", "верно"),
    ("正确", "正确"),
    ("Stra e", "Straße"),
    (".", "."),
]
names = ("torchmetrics", "lm-eval", "rouge-score", "rouge")
print(*(f"{name} {version(name)}" for name in names), sep=", ")
seen = {}
for pair in PAIRS:
    seen[pair] = [measure(*pair) for measure in MEASURES.values()]
    print(f"{pair!r:25}", *(f"{name} {score}" for name, score in zip(MEASURES, seen[pair])))
right, wrong = 1.0, 0.0
assert seen == {
    ("-5", "5"): [right, right, right, right, right, wrong],
    ("1.5", "15"): [right, right, right, wrong, wrong, wrong],
    ("1/2", "12"): [right, right, right, wrong, wrong, wrong],
    ("C++", "C#"): [right, right, right, right, right, wrong],
    ("", "A"): [right, right, wrong, wrong, wrong, "refuses"],
    ("The", "A"): [right, right, wrong, wrong, wrong, wrong],
    ("B", "A"): [wrong] * 6,
    ("“yes”", "yes"): [wrong, wrong, wrong, right, right, wrong],
    ("верно", "верно"): [right, right, right, wrong, wrong, right],
    ("正确", "正确"): [right, right, right, wrong, wrong, right],
    ("Stra e", "Straße"): [wrong, wrong, wrong, right, right, wrong],
    (".", "."): [right, right, right, wrong, wrong, "refuses"],
}
PY
