#!/usr/bin/env bash
# JSON Lines in which one row has a field that no row before it has, as a log of a job has when an
# error or a tool call first comes late: in row 226 of 300, and in row 30,001 of 40,000.
#
# Seen with polars 2.1.0, duckdb 2.0.1, pandas 3.1.1, pyarrow 26.0.1, datasets 5.2.0:
#   Polars looks at 100 rows and DuckDB at 20,480: a field that comes later is dropped, and nothing is
#   said; the table has all rows and no such column. pandas and pyarrow have the column in both. So
#   does datasets while the file is one chunk to it; with a field that first comes in a later chunk,
#   it raises. A *number* that is no whole one for the first time in row 226 is an error for Polars.
#   `infer_schema_length=None` and `sample_size=-1` make them look at all rows.
# So a count of the rows that failed, by a column of errors, ends in "no such column", or the column
# is taken for one that never was needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q polars==2.1.0 duckdb==2.0.1 pandas==3.1.1 pyarrow==26.0.1 \
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

datasets.disable_progress_bars()


def by_datasets(path):
    try:
        return datasets.Dataset.from_json(path, cache_dir="cache", chunksize=2**20).column_names
    except datasets.exceptions.DatasetGenerationError as error:
        return f"raises {type(error.__cause__ or error).__name__}"


READERS = {
    "polars": lambda path: polars.read_ndjson(path).columns,
    "duckdb": lambda path: duckdb.sql(f"from '{path}'").columns,
    "pandas": lambda path: pandas.read_json(path, lines=True).columns.tolist(),
    "pyarrow": lambda path: pyarrow.json.read_json(path).column_names,
    "datasets": by_datasets,
}


def write(path, count, late):
    with open(path, "w") as file:
        for number in range(count):
            row = {"id": number, "text": "x" * 80} | (late if number == count * 3 // 4 else {})
            file.write(json.dumps(row) + "\n")
    return path


def told(call):
    try:
        return call()
    except polars.exceptions.ComputeError as error:
        return f"raises {type(error).__name__}"


print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
seen = {}
for count in (100, 300, 40_000):
    path = write(f"{count}.jsonl", count, {"error": "timeout"})
    seen[count] = {name: read(path) for name, read in READERS.items()}
    print(f"{count} rows, `error` in the one at three quarters")
    for name, columns in seen[count].items():
        print(f"    {name:9} {columns}")
both, dropped = ["id", "text", "error"], ["id", "text"]
assert set(map(str, seen[100].values())) == {str(both)}
assert seen[300] == dict.fromkeys(READERS, both) | {"polars": dropped}
assert {name: seen[40_000][name] for name in ("polars", "duckdb")} == {"polars": dropped, "duckdb": dropped}
assert seen[40_000]["pandas"] == seen[40_000]["pyarrow"] == both
assert str(seen[40_000]["datasets"]).startswith("raises")
asked = polars.read_ndjson("40000.jsonl", infer_schema_length=None).columns
assert asked == duckdb.sql("from read_json('40000.jsonl', sample_size=-1)").columns == both
number = write("number.jsonl", 300, {"id": 0.5})
said = told(lambda: polars.read_ndjson(number))
print("a number with a fraction, Polars:", said)
assert said == "raises ComputeError"
assert duckdb.sql(f"from '{number}' where id = 0.5").fetchall() == [(0.5, "x" * 80)]
PY
