#!/usr/bin/env bash
# A Parquet map column in which one row has a key twice (HTTP headers, tags), read by five libraries.
# Arrow allows it: a map is a list of entries, and nothing says that keys are unique.
#
# Seen with pyarrow 26.0.1, duckdb 2.0.1, polars 2.1.0, fastparquet 2026.9.0, datasets 5.2.0:
#   pyarrow gives both entries. Polars and fastparquet give the last one and drop the first without a
#   word. DuckDB ends any query that touches the column ("Map keys must be unique"), the rows without
#   a repeated key too. datasets loads no file that has a map column, whatever stands in it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0 fastparquet==2026.9.0 \
  datasets==5.2.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
import datasets
import duckdb
import fastparquet
import polars
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
rows = [[("accept", 1), ("accept", 2)], [("host", 3)]]
pq.write_table(pa.table({"x": pa.array(rows, pa.map_(pa.string(), pa.int32()))}), "x.parquet")


def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


seen = {
    "pyarrow": told(lambda: pq.read_table("x.parquet")["x"].to_pylist()),
    "polars": told(lambda: polars.read_parquet("x.parquet")["x"].to_list()),
    "fastparquet": told(lambda: [
        {key: int(value) for key, value in row.items()}
        for row in fastparquet.ParquetFile("x.parquet").to_pandas()["x"]
    ]),
    "duckdb": told(lambda: duckdb.sql("select x from 'x.parquet'").fetchall()),
    "datasets": told(lambda: datasets.Dataset.from_parquet("x.parquet", cache_dir="cache")[:]),
}
print("written     ", rows)
for name, value in seen.items():
    print(f"{name:12} {value}")
assert seen["pyarrow"] == rows
assert seen["polars"] == seen["fastparquet"] == [{"accept": 2}, {"host": 3}]
assert "Map keys must be unique" in seen["duckdb"]
assert "does not have a datasets dtype equivalent" in seen["datasets"]
PY
