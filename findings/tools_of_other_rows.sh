#!/usr/bin/env bash
# JSON Lines of chats, each row with tools of its own, whose parameters have other names than those of
# the row before it: what tools has a row when a library has read it?
#
# Seen with polars 2.1.0, duckdb 2.0.1, pyarrow 26.0.1, pandas 3.1.1, datasets 5.2.0:
#   Polars, DuckDB and pyarrow make one type of all rows' tools: each row has the parameters of every
#   other row too, as nulls, and written as JSON Lines again, or handed to a chat template, they are
#   there. pandas and datasets give each row its own. In a Parquet file of that dataset's a tool's
#   parameters are text of the type `arrow.json`: an object again for datasets, text for the other
#   three.
# So in a file of 1,000 rows with a tool each, every prompt names the parameters of 1,000 tools, all but
# its own null, or has quoted JSON where the model knows an object; and nothing fails.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1 pandas==3.1.1 \
  datasets==5.2.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
import json
from importlib.metadata import version

import datasets
import duckdb
import pandas
import polars
import pyarrow.json
import pyarrow.parquet as pq

datasets.disable_progress_bars()


def tool(name, **parameters):
    return {"name": name, "parameters": {key: {"type": kind} for key, kind in parameters.items()}}


ROWS = [[tool("weather", city="string")], [tool("refund", order="integer")]]
with open("rows.jsonl", "w") as file:
    file.writelines(json.dumps({"tools": tools}) + "\n" for tools in ROWS)


def by_datasets(path):
    return datasets.Dataset.from_json(path, cache_dir="cache")


READERS = {
    "polars": lambda path: polars.read_ndjson(path)["tools"].to_list(),
    "duckdb": lambda path: [row[0] for row in duckdb.sql(f"from '{path}'").fetchall()],
    "pyarrow": lambda path: pyarrow.json.read_json(path)["tools"].to_pylist(),
    "pandas": lambda path: pandas.read_json(path, lines=True)["tools"].tolist(),
    "datasets": lambda path: by_datasets(path)["tools"][:],
}
print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
print(f"{'written':9}", *map(json.dumps, ROWS), sep="\n    ")
seen = {name: read("rows.jsonl") for name, read in READERS.items()}
for name, rows in seen.items():
    print(f"{name:9}", "as written" if rows == ROWS else "", *map(json.dumps, rows), sep="\n    ")
merged = [
    [{"name": "weather", "parameters": {"city": {"type": "string"}, "order": None}}],
    [{"name": "refund", "parameters": {"city": None, "order": {"type": "integer"}}}],
]
assert seen["polars"] == seen["duckdb"] == seen["pyarrow"] == merged
assert seen["pandas"] == seen["datasets"] == ROWS
polars.read_ndjson("rows.jsonl").write_ndjson("again.jsonl")
again = [json.loads(line)["tools"] for line in open("again.jsonl")]
assert again == merged
by_datasets("rows.jsonl").to_parquet("rows.parquet")
parquet = {
    "polars": polars.read_parquet("rows.parquet")["tools"].to_list(),
    "duckdb": [row[0] for row in duckdb.sql("from 'rows.parquet'").fetchall()],
    "pyarrow": pq.read_table("rows.parquet")["tools"].to_pylist(),
    "datasets": datasets.Dataset.from_parquet("rows.parquet", cache_dir="other")["tools"][:],
}
print("datasets' Parquet, the first row's parameters")
first = {name: rows[0][0]["parameters"] for name, rows in parquet.items()}
for name, parameters in first.items():
    print(f"    {name:9} {parameters!r}")
text = '{"city":{"type":"string"}}'
assert first == {
    "polars": text,
    "duckdb": text,
    "pyarrow": text,
    "datasets": ROWS[0][0]["parameters"],
}
PY
