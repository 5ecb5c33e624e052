#!/usr/bin/env bash
# The same rows as a table and as a Parquet file, asked the same question: one of them is NaN.
#
# Seen with duckdb 2.0.1 and pyarrow 26.0.1:
#   NaN is greater than every number for DuckDB, so `x > 1` finds it, and max(x) is NaN: in a table.
#   From the file, `x > 1` finds nothing and max(x) is 0.5: Parquet's statistics leave NaN out (as
#   the format asks), and DuckDB answers from them, or passes the row group over by them. In the
#   same file `order by x desc` has NaN first; and where the file has no statistics, all is as in
#   the table. No warning.
# So a filter that looks for broken scores depends on how a file was written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q duckdb==2.0.1 pyarrow==26.0.1
cd "$work"
venv/bin/python - <<'PY'
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

rows = pa.table({"x": [0.1, float("nan"), 0.5]})
pq.write_table(rows, "with.parquet")
pq.write_table(rows, "without.parquet", write_statistics=False)
duckdb.sql("create table kept as select * from 'with.parquet'")


def answers(source):
    return [
        str(duckdb.sql(f"select {what}").fetchall())
        for what in (
            f"x from {source} where x > 1",
            f"max(x) from {source}",
            f"x from {source} order by x desc limit 1",
        )
    ]


found = {
    "table": answers("kept"),
    "file": answers("'with.parquet'"),
    "file without statistics": answers("'without.parquet'"),
}
print(f"{'':24} {'x > 1':10} {'max(x)':12} largest by order")
for name, said in found.items():
    print(f"{name:24} {said[0]:10} {said[1]:12} {said[2]}")
assert found["table"] == ["[(nan,)]"] * 3
assert found["file"] == ["[]", "[(0.5,)]", "[(nan,)]"]
assert found["file without statistics"] == found["table"]
PY
