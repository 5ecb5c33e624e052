#!/usr/bin/env bash
# A JSON Lines column of ids that are 64-bit hashes: whole numbers up to 2^64 - 1.
#
# Seen with datasets 5.2.0, pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1, pandas 3.1.1:
#   As soon as one id has its highest bit set, pyarrow.json, and with it datasets, makes floats of the
#   whole column, without a word: ids that differ are equal then, those below 2^63 too. Polars,
#   DuckDB and pandas keep every digit. Without such an id all five do. To ask pyarrow for uint64
#   keeps them; datasets' `features` give whole numbers, made of the floats: other ids, still equal.
# Half of all hashes have that bit, so a sample of a few rows may be read rightly and the file not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1 \
  pandas==3.1.1
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
import json

import datasets
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.json

datasets.disable_progress_bars()
SMALL = [2**53, 2**53 + 1]
LARGE = [*SMALL, 2**64 - 2**11, 2**64 - 2**11 + 1]


def by_pyarrow(path, kind=None):
    schema = kind and pa.schema({"id": kind})
    return pa.json.read_json(
        path, parse_options=pa.json.ParseOptions(explicit_schema=schema)
    )["id"].to_pylist()


def by_datasets(path, features=None):
    return datasets.Dataset.from_json(path, cache_dir="cache", features=features)["id"][:]


READERS = {
    "datasets": by_datasets,
    "pyarrow": by_pyarrow,
    "duckdb": lambda path: [row[0] for row in duckdb.sql(f"from '{path}'").fetchall()],
    "polars": lambda path: polars.read_ndjson(path)["id"].to_list(),
    "pandas": lambda path: pandas.read_json(path, lines=True)["id"].tolist(),
}
for name, ids in {"small": SMALL, "large": LARGE}.items():
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"id": number}) + "\n" for number in ids)
found = {name: read("large.jsonl") for name, read in READERS.items()}
print(f"{'given':10}", LARGE)
for name, ids in found.items():
    print(f"{name:10}", ids, "" if len(set(ids)) == len(LARGE) else f"{len(set(ids))} ids")
for name, read in READERS.items():
    assert read("small.jsonl") == SMALL, name
for name in ("datasets", "pyarrow"):
    assert all(isinstance(number, float) for number in found[name])
    assert len(set(found[name])) == 2
for name in ("duckdb", "polars", "pandas"):
    assert found[name] == LARGE, name
asked = by_pyarrow("large.jsonl", pa.uint64())
print("pyarrow, asked for uint64 ", asked)
assert asked == LARGE
given = by_datasets("large.jsonl", datasets.Features({"id": datasets.Value("uint64")}))
print("datasets, asked for uint64", given)
assert given == [2**53, 2**53, 2**64 - 2**11, 2**64 - 2**11]
PY
