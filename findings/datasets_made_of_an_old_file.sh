#!/usr/bin/env bash
# Prompts made by datasets from a file, yesterday and, after the file was changed, today: by its reader of
# JSON Lines, by `Dataset.from_generator` with a function that reads the file, and by `map` with a function
# that puts the instruction before each row, which it reads from a file of its own.
#
# Seen with datasets 5.2.0, each day in a process of its own:
#   Its own readers see that the file changed. from_generator gives yesterday's rows, though the path is
#   among its arguments: it is the path's letters that are compared, not what lies there. `map` gives each
#   row under yesterday's instruction, as long as the rows are the same; a text that stands in the function
#   or in a variable that it names is compared, a text that it reads is not. Rows that were taken away are
#   there, new ones are not, and nothing is said.
# So a nightly job does yesterday's prompts again, or a corrected instruction changes nothing, and the
# numbers of two instructions that were compared are of one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0
cd "$work"
cat > day.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import datasets

print("datasets", version("datasets"))
datasets.disable_progress_bars()
HINT = Path("hint.txt").read_text()


def lines(path):
    with open(path) as file:
        for line in file:
            yield json.loads(line)


def instructed(row):
    return {"prompt": Path("instruction.txt").read_text() + row["text"]}


def hinted(row):
    return {"prompt": HINT + row["text"]}


kept = datasets.load_dataset("json", data_files="kept.jsonl", split="train")
found = {
    "load_dataset": datasets.load_dataset("json", data_files="rows.jsonl", split="train")["text"][:],
    "from_generator": datasets.Dataset.from_generator(lines, gen_kwargs={"path": "rows.jsonl"})[
        "text"
    ][:],
    "map, a file": kept.map(instructed)["prompt"][:],
    "map, a variable": kept.map(hinted)["prompt"][:],
}
for name, rows in found.items():
    print(f"    {name:16} {rows}")
Path("found.json").write_text(json.dumps(found))
PY
day() { HF_HOME=$work/hf venv/bin/python day.py; }
echo '{"text": "kept"}' > kept.jsonl
printf '{"text": "one"}\n{"text": "two"}\n' > rows.jsonl
printf 'Old: ' | tee instruction.txt > hint.txt
day && mv found.json first.json
printf '{"text": "two"}\n{"text": "three"}\n{"text": "four"}\n' > rows.jsonl
printf 'New: ' | tee instruction.txt > hint.txt
day
venv/bin/python - <<'PY'
import json

first, then = (json.load(open(name)) for name in ("first.json", "found.json"))
assert first == {
    "load_dataset": ["one", "two"],
    "from_generator": ["one", "two"],
    "map, a file": ["Old: kept"],
    "map, a variable": ["Old: kept"],
}
assert then == {
    "load_dataset": ["two", "three", "four"],
    "from_generator": ["one", "two"],
    "map, a file": ["Old: kept"],
    "map, a variable": ["New: kept"],
}
PY
