#!/usr/bin/env bash
# Completions that were made elsewhere, judged by the filters and the metric of three of lm-eval's tasks as
# the package ships them: what is taken for the answer, and whether it is right.
#
# Seen with lm-eval 0.4.13:
#   Where gsm8k_cot and the 27 tasks of bbh_cot_fewshot mean the full stop behind "the answer is 18." their
#   expressions take any sign, so that an answer without it loses its last one: 18 is 1 and wrong, 180 is
#   18 and right, True is Tru, (B) is (B, and 5 is nothing. bbh's is wrong again if a space follows the
#   stop. gsm8k's flexible filter takes the last thing that looks like a number, as two dots do: behind
#   "18 .." the answer is "..". It makes 18 of `1,8`, and another number than 18 of `18.0`. Nothing tells
#   an answer that was cut from one that was given.
# So a model, or a chat template, that ends its answers without a full stop loses nearly all of its score
# in these tasks, and some wrong answers become right ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q lm-eval==0.4.13
cd "$work"
HF_HOME=$work/hf venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters import build_filter_ensemble

TASKS = Path(lm_eval.__file__).parent / "tasks"
OPTIONS = ("ignore_case", "ignore_punctuation", "regexes_to_ignore")


class Reader(yaml.SafeLoader):
    """A task's file may name functions; these are not wanted here."""


Reader.add_constructor("!function", lambda reader, node: None)


def config(file):
    found = yaml.load(file.read_text(), Reader)
    parent = found.pop("include", None)
    return (config(file.parent / parent) if parent else {}) | found


def judged(file, name, answer, gold):
    """What the filter takes for the answer, and the score of it."""
    task = config(TASKS / file)
    filters = next(each["filter"] for each in task["filter_list"] if each["name"] == name)
    steps = [[step.pop("function"), step or None] for step in map(dict, filters)]
    row = SimpleNamespace(resps=[answer], doc={}, filtered_resps={})
    build_filter_ensemble(name, steps).apply([row])
    metric = task["metric_list"][0]
    options = {option: metric[option] for option in OPTIONS if option in metric}
    got = row.filtered_resps[name]
    return got, float(exact_match_hf_evaluate([got], [gold], **options)["exact_match"])


COT, STEPS = "gsm8k/gsm8k-cot.yaml", "bbh/cot_fewshot/multistep_arithmetic_two.yaml"
BOOLS, DATES = (
    f"bbh/cot_fewshot/{name}.yaml" for name in ("boolean_expressions", "date_understanding")
)
CASES = {
    (COT, "strict-match", "The answer is 18.", "18"): ("18", 1),
    (COT, "strict-match", "The answer is 18", "18"): ("1", 0),
    (COT, "strict-match", "The answer is 180", "18"): ("18", 1),
    (COT, "strict-match", "The answer is $18.", "18"): ("[invalid]", 0),
    (COT, "flexible-extract", "The answer is 18", "18"): ("18", 1),
    (COT, "flexible-extract", "It would be 18 ..", "18"): ("..", 0),
    (COT, "flexible-extract", "The answer is 1,8", "18"): ("1,8", 1),
    (COT, "flexible-extract", "The answer is 18.0", "18"): ("18.0", 0),
    (STEPS, "get-answer", "So the answer is -18.", "-18"): ("-18", 1),
    (STEPS, "get-answer", "So the answer is -18", "-18"): ("-1", 0),
    (STEPS, "get-answer", "So the answer is -180", "-18"): ("-18", 1),
    (STEPS, "get-answer", "So the answer is -18. ", "-18"): ("-18.", 0),
    (STEPS, "get-answer", "So the answer is 5", "5"): ("", 0),
    (BOOLS, "get-answer", "So the answer is True", "True"): ("Tru", 0),
    (DATES, "get-answer", "So the answer is (B)", "(B)"): ("(B", 0),
}
print("lm-eval", version("lm-eval"))
seen = {case: judged(*case) for case in CASES}
for (file, name, answer, gold), (got, score) in seen.items():
    print(f"{Path(file).stem:24} {name:17} {answer!r:26} gold {gold:5} takes {got!r}: {score}")
assert seen == CASES
PATTERN = config(TASKS / STEPS)["filter_list"]
tasks = [file for file in (TASKS / "bbh/cot_fewshot").glob("*.yaml") if not file.name.startswith("_")]
same = [file for file in tasks if config(file).get("filter_list") == PATTERN]
print(f"{len(same)} of {len(tasks)} files of bbh_cot_fewshot have that filter")
assert len(same) == len(tasks) == 27
PY
