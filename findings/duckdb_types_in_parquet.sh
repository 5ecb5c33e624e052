#!/usr/bin/env bash
# A table of DuckDB's with a sum of whole numbers, a UUID and a JSON column, copied to Parquet and
# read by five libraries.
#
# Seen with duckdb 2.0.1, pyarrow 26.0.1, polars 2.1.0, pandas 3.1.1, datasets 5.2.0:
#   sum() of a BIGINT is a HUGEINT, for which Parquet has no type: COPY writes a 64-bit float without
#   a warning, so that 2^53 + 1 is one less in the file, for DuckDB too; handed over as Arrow it is an
#   exact decimal. sum(n)::BIGINT is written as it is.
#   UUID and JSON have types of their own in the file. pyarrow and pandas give UUIDs and text; Polars
#   gives bytes for both; datasets parses the JSON, and loads no file that has a UUID.
# So a sum is rounded on its way to disk alone, and JSON that DuckDB wrote is text, bytes or an object.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1 \
  datasets==5.2.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
import uuid

import datasets
import duckdb
import pandas
import polars
import pyarrow.parquet as pq

datasets.disable_progress_bars()
NUMBERS = "(values (9007199254740992::bigint), (1::bigint)) v(n)"
SUMS = f"select sum(n) as total, sum(n)::bigint as whole from {NUMBERS}"
ID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
duckdb.sql(f"copy ({SUMS}) to 'sums.parquet'")
duckdb.sql(f"""copy (select uuid '{ID}' as x) to 'uuid.parquet'""")
duckdb.sql("""copy (select '{"a":1}'::json as x) to 'json.parquet'""")

asked = duckdb.sql(SUMS).fetchall()[0]
read = duckdb.sql("from 'sums.parquet'").fetchall()[0]
handed = duckdb.sql(SUMS).to_arrow_table()
print("asked     ", asked)
print("from file ", read, [str(kind) for kind in pq.read_schema("sums.parquet").types])
print("as Arrow  ", tuple(handed.to_pylist()[0].values()), [str(kind) for kind in handed.schema.types])
assert asked == (2**53 + 1, 2**53 + 1)
assert read == (float(2**53), 2**53 + 1)
assert pq.read_table("sums.parquet").to_pylist() == [{"total": float(2**53), "whole": 2**53 + 1}]
assert [int(number) for number in handed.to_pylist()[0].values()] == [2**53 + 1] * 2
assert str(handed.schema.field("total").type) == "decimal128(38, 0)"


def told(call):
    try:
        return call()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


READERS = {
    "duckdb": lambda path: duckdb.sql(f"from '{path}'").fetchall()[0][0],
    "pyarrow": lambda path: pq.read_table(path)["x"].to_pylist()[0],
    "pandas": lambda path: pandas.read_parquet(path)["x"][0],
    "polars": lambda path: polars.read_parquet(path)["x"][0],
    "datasets": lambda path: datasets.Dataset.from_parquet(path, cache_dir="cache")["x"][0],
}
seen = {
    name: [told(lambda path=path: by(path)) for path in ("uuid.parquet", "json.parquet")]
    for name, by in READERS.items()
}
for name, values in seen.items():
    print(f"{name:10}", *map(repr, values))
for name in ("duckdb", "pyarrow", "pandas"):
    assert seen[name] == [uuid.UUID(ID), '{"a":1}'], name
assert seen["polars"] == [uuid.UUID(ID).bytes, b'{"a":1}']
assert "does not have a datasets dtype equivalent" in seen["datasets"][0]
assert seen["datasets"][1] == {"a": 1}
PY
