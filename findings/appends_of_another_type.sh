#!/usr/bin/env bash
# Two days of one job, whose rows are appended to a table: on the first day every score happens to be a
# whole number, so that JSON's 0 and 1 made a column of integers; on the second day they are 0.7 and
# 0.2, or texts of digits, or a struct has one more field.
#
# Seen with deltalake 1.6.6, polars 2.1.0 (its `write_delta`), duckdb 2.0.1, pylance 14.0.2,
# pyiceberg 0.12.0, pyarrow 26.0.1:
#   deltalake and polars cut the numbers off behind the point, also inside lists and structs, and under
#   schema_mode="merge" too, which adds columns and changes no type: 0.7 is 0. DuckDB's INSERT rounds,
#   0.7 is 1, and drops the field of a struct that the table does not have; deltalake adds that under
#   "merge" and refuses it without. All three make numbers of the digits, and raise on NaN. Lance and
#   pyiceberg refuse all of these. Nobody warns.
# So a table of probabilities holds zeros from its second day on, because its first day was all zeros
# and ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q deltalake==1.6.6 polars==2.1.0 duckdb==2.0.1 pylance==14.0.2 \
  "pyiceberg[sql-sqlite]==0.12.0" pyarrow==26.0.1
cd "$work"
HOME=$work venv/bin/python -W ignore - <<'PY' 2>/dev/null
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from math import nan
from pathlib import Path

import duckdb
import lance
import polars
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

here = Path.cwd()
catalog = SqlCatalog("local", uri=f"sqlite:///{here}/catalog.db", warehouse=f"file://{here}/tables")
catalog.create_namespace("jobs")


def delta(name, first, second, **how):
    write_deltalake(name, first)
    write_deltalake(name, second, mode="append", **how)
    return DeltaTable(name).to_pyarrow_table()


def merged(name, first, second):
    return delta(name, first, second, schema_mode="merge")


def by_polars(name, first, second):
    polars.from_arrow(first).write_delta(name)
    polars.from_arrow(second).write_delta(name, mode="append")
    return DeltaTable(name).to_pyarrow_table()


def by_duckdb(name, first, second):
    database = duckdb.connect()
    database.sql("create table job as from first")
    database.sql("insert into job from second")
    return database.sql("from job").to_arrow_table()


def by_lance(name, first, second):
    lance.write_dataset(first, name)
    lance.write_dataset(second, name, mode="append")
    return lance.dataset(name).to_table()


def iceberg(name, first, second):
    table = catalog.create_table(f"jobs.{name}", first.schema)
    table.append(first)
    table.append(second)
    return table.scan().to_arrow()


WAYS = {
    "deltalake": delta,
    "deltalake, merge": merged,
    "polars": by_polars,
    "duckdb": by_duckdb,
    "lance": by_lance,
    "pyiceberg": iceberg,
}
DAYS = {
    "numbers": ([0, 1], [0.7, 0.2]),
    "lists": ([[0], [1]], [[0.7], [0.2]]),
    "structs": ([{"yes": 0}, {"yes": 1}], [{"yes": 0.7}, {"yes": 0.2}]),
    "not numbers": ([0, 1], [nan, 0.2]),
    "texts": ([0, 1], ["7", "8"]),
    "more fields": ([{"yes": 0}, {"yes": 1}], [{"yes": 2, "no": 3}, {"yes": 4, "no": 5}]),
}
seen = {}
for kind, days in DAYS.items():
    first, second = (
        pa.table({"day": [day] * 2, "value": pa.array(values)}) for day, values in enumerate(days)
    )
    for number, (way, append) in enumerate(WAYS.items()):
        try:
            with redirect_stdout(StringIO()):
                rows = append(f"{kind.replace(' ', '_')}{number}", first, second)
            seen[kind, way] = rows.sort_by("day")["value"].to_pylist()[2:]
        except Exception:
            seen[kind, way] = "refused"
names = ("deltalake", "polars", "duckdb", "pylance", "pyiceberg", "pyarrow")
print(*(f"{name} {version(name)}" for name in names), sep=", ")
for (kind, way), found in seen.items():
    print(f"{kind:12} {way:17}", found)
CUT = {"numbers": [0, 0], "lists": [[0], [0]], "structs": [{"yes": 0}, {"yes": 0}], "texts": [7, 8]}
BOTH = [{"yes": 2, "no": 3}, {"yes": 4, "no": 5}]
expected = {
    "deltalake": CUT,
    "deltalake, merge": CUT | {"more fields": BOTH},
    "polars": CUT,
    "duckdb": {
        "numbers": [1, 0],
        "lists": [[1], [0]],
        "structs": [{"yes": 1}, {"yes": 0}],
        "texts": [7, 8],
        "more fields": [{"yes": 2}, {"yes": 4}],
    },
}
for (kind, way), found in seen.items():
    assert found == expected.get(way, {}).get(kind, "refused"), (kind, way)
PY
