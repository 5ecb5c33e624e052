#!/usr/bin/env bash
# Numbers that leave a dataset as JSON Lines: are they the numbers that went in?
#
# Seen with datasets 5.2.0, pandas 3.1.1, pyarrow 26.0.1, polars 2.1.0:
#   Dataset.to_json keeps ten digits behind the point: a probability of 3e-12 is written as 0.0, and
#   1/3 as 0.3333333333; nothing is said. Whole numbers keep all 19 digits. Dataset.to_parquet and
#   Polars' write_ndjson, given the same column, lose nothing.
# Log-probabilities survive it nearly, small probabilities do not at all: their logarithm is then
# minus infinity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
import json

import datasets
import polars
import pyarrow.parquet as pq

datasets.disable_progress_bars()
given = [0.25, 1 / 3, 3e-12, -0.1234567890123456]
data = datasets.Dataset.from_dict({"p": given, "n": [2**63 - 1, 2**53 + 1, 0, -1]})
data.to_json("d.jsonl")
data.to_parquet("d.parquet")
polars.from_arrow(data.data.table).write_ndjson("p.jsonl")


def column(path, name):
    return [json.loads(line)[name] for line in open(path)]


found = {
    "datasets, JSON Lines": column("d.jsonl", "p"),
    "datasets, Parquet": pq.read_table("d.parquet")["p"].to_pylist(),
    "Polars, JSON Lines": column("p.jsonl", "p"),
}
print(f"{'given':22}", given)
for name, numbers in found.items():
    print(f"{name:22}", numbers)
assert found["datasets, JSON Lines"] == [0.25, 0.3333333333, 0.0, -0.123456789]
assert found["datasets, Parquet"] == found["Polars, JSON Lines"] == given
assert column("d.jsonl", "n") == data["n"][:]
PY
