#!/usr/bin/env bash
# Labels whose opposite ends in them (safe and unsafe, valid and invalid, correct and incorrect), numbers that end
# alike, and labels that differ by a sign, answered wrongly by a model every time, and what Inspect's scorers make
# of it, in an evaluation from the task to its accuracy.
#
# Seen with inspect-ai 0.3.285:
#   `match()`, which takes the answer's end unless it is told another place, and `includes()` compare letters, not
#   words: a model that answers "unsafe" of everything safe has an accuracy of 1, and so has one that answers 118
#   for 18 and "not valid" for "valid". `match(location="exact")` and `exact()` have 0 for these; but `exact()` and
#   `f1()` drop all signs first, so that -5 is 5, C++ is C#, and 1/2 is 12. `match(numeric=True)` tells 118 from 18
#   and -5 from 5, and is `match()` for a label that is no number. Of two epochs, one right and one wrong, the `mode`
#   is the mark of the first: the accuracy is 1 or 0 by which came first. Nothing is said.
# So the judge that flags every harmless text is perfect, and no score tells it from one that flags none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q inspect-ai==0.3.285
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import exact, f1, includes, match
from inspect_ai.solver import solver

KINDS = {
    "labels": [("unsafe", "safe"), ("invalid", "valid"), ("incorrect", "correct"), ("not valid", "valid")],
    "longer numbers": [("118", "18"), ("The answer is 2005.", "5")],
    "signs": [("-5", "5"), ("C++", "C#"), ("1/2", "12")],
    "right": [("safe", "safe"), ("Valid.", "valid"), ("18", "18"), ("5", "5")],
}
WAYS = {
    "match()": match(),
    "includes()": includes(),
    "exact()": exact(),
    "f1()": f1(),
    "match(location='exact')": match(location="exact"),
    "match(numeric=True)": match(numeric=True),
}


@solver
def model_said():
    """Answers as the model did, in each epoch, when the completions were made."""

    async def solve(state, generate):
        state.output = ModelOutput.from_content("ours", state.metadata["said"][state.epoch - 1])
        return state

    return solve


def score(rows, scorer, **settings):
    """The accuracy, or the mean, of rows of answers and a label."""
    samples = [Sample(input="?", target=label, metadata={"said": answers}) for answers, label in rows]
    task = Task(dataset=samples, solver=model_said(), scorer=scorer, **settings)
    log = eval(task, model="mockllm/model", display="none", log_dir="logs")[0]
    assert log.status == "success", log.error
    metrics = log.results.scores[0].metrics
    return round(metrics.get("accuracy", metrics.get("mean")).value, 3)


print(f"inspect-ai {version('inspect-ai')}")
seen = {}
for way, scorer in WAYS.items():
    seen[way] = {kind: score([([answer], label) for answer, label in rows], scorer) for kind, rows in KINDS.items()}
    print(f"    {way:24} {seen[way]}")
twice = [(["18", "19"], "18")], [(["19", "18"], "18")]
modes = [score(rows, match(), epochs=Epochs(2, "mode")) for rows in twice]
means = [score(rows, match(), epochs=Epochs(2, "mean")) for rows in twice]
print(f"    18 and 19, and 19 and 18, of two epochs: mode {modes}, mean {means}")
wanted = {
    "match()": [1, 1, 0.667, 1],
    "includes()": [1, 1, 0.333, 1],
    "exact()": [0, 0, 1, 1],
    "f1()": [0.168, 0, 1, 1],
    "match(location='exact')": [0, 0, 0.667, 1],
    "match(numeric=True)": [1, 0, 0.333, 1],
}
assert {way: list(found.values()) for way, found in seen.items()} == wanted
assert modes == [1, 0] and means == [0.5, 0.5]
PY
HOME=$work venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
