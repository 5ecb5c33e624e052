#!/usr/bin/env bash
# Rows without messages and without a usage (a list of objects and an object that are null, beside an empty
# list and an object without values), as Parquet and as JSON Lines, counted by `IS NULL` in chDB, DuckDB and
# Polars, and copied from Parquet to Parquet.
#
# Seen with chdb 4.4.0, duckdb 2.0.1, polars 2.1.0, pyarrow 26.0.1:
#   chDB has no missing list: it reads an empty one, from either file. An object that is missing is one
#   without values in Parquet, and missing in JSON Lines. So `messages IS NULL` finds none of two rows, and
#   `usage IS NULL` none of them in one file and both in the other; DuckDB and Polars find two each time. A
#   copy by chDB has empty lists and objects without values for every other reader as well. Of JSON Lines
#   chDB also sorts the fields of the objects inside a list. Numbers and texts that are null stay so, and
#   nothing is said.
# So the rows that a job has still to do, or whose request failed, are rows that were done with no answer,
# by the query that looks for them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q chdb==4.4.0 duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1
cd "$work"
venv/bin/python - <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import chdb
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

SAID = [{"role": "user", "content": "a"}]
ROWS = [
    {"id": 1, "messages": SAID, "usage": {"tokens": 7}, "text": "b"},
    {"id": 2, "messages": None, "usage": None, "text": None},
    {"id": 3, "messages": [], "usage": {"tokens": None}, "text": ""},
    {"id": 4, "messages": None, "usage": None, "text": "c"},
]
KINDS = {"rows.parquet": "Parquet", "rows.jsonl": "JSONEachRow"}
pq.write_table(pa.Table.from_pylist(ROWS), "rows.parquet")
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def by_chdb(file, column):
    query = f"SELECT count() FROM file('{file}', {KINDS[file]}) WHERE {column} IS NULL"
    return int(str(chdb.query(query)))


def by_duckdb(file, column):
    return duckdb.sql(f"SELECT count(*) FROM '{file}' WHERE {column} IS NULL").fetchall()[0][0]


def by_polars(file, column):
    rows = pl.read_parquet(file) if file.endswith("parquet") else pl.read_ndjson(file)
    return rows[column].null_count()


READERS = {"chdb": by_chdb, "duckdb": by_duckdb, "polars": by_polars}
COLUMNS = ("messages", "usage", "text")
print(*(f"{name} {version(name)}" for name in [*READERS, "pyarrow"]), sep=", ")
seen = {}
for file in KINDS:
    for name, read in READERS.items():
        seen[name, file] = [read(file, column) for column in COLUMNS]
        counted = ", ".join(f"{column} {n}" for column, n in zip(COLUMNS, seen[name, file]))
        print(f"{name:7} {file:13} missing: {counted}")
right = [2, 2, 1]
assert seen == dict.fromkeys(seen, right) | {
    ("chdb", "rows.parquet"): [0, 0, 1],
    ("chdb", "rows.jsonl"): [0, 2, 1],
}
target = "INTO OUTFILE 'copy.parquet' FORMAT Parquet"
chdb.query(f"SELECT * FROM file('rows.parquet', Parquet) ORDER BY id {target}")
copied = pq.read_table("copy.parquet").to_pylist()
print("copied by chDB:", *copied, sep="\n    ")
assert copied == [
    row | {"messages": row["messages"] or [], "usage": row["usage"] or {"tokens": None}}
    for row in ROWS
]
first = str(chdb.query("SELECT messages FROM file('rows.jsonl', JSONEachRow) LIMIT 1", "JSONEachRow"))
print("of JSON Lines:", first.strip())
assert list(json.loads(first)["messages"][0]) == ["content", "role"]
PY
