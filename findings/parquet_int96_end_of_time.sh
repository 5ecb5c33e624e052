#!/usr/bin/env bash
# A Parquet column of INT96 timestamps, as Spark, Impala and Athena have written them, with the two
# days that stand for "never": 9999-12-31 and 0001-01-01. INT96 holds a day and the nanoseconds in it,
# so it can say both.
#
# Seen with pyarrow 26.0.1, pandas 3.1.1, fastparquet 2026.9.0, datasets 5.2.0, polars 2.1.0,
# duckdb 2.0.1:
#   Polars and DuckDB give what was written. pyarrow, and with it pandas and datasets, count
#   nanoseconds in 64 bits, which end in 2262, and give other days of the years 1816 and 1754 without
#   a word; fastparquet gives the same. pyarrow is right with coerce_int96_timestamp_unit="us", which
#   pandas passes on. Timestamps of the usual kind (64 bits, microseconds) are right by all six.
# So "valid until further notice" has been over for two centuries, for the filter that drops it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1 pandas==3.1.1 fastparquet==2026.9.0 datasets==5.2.0 \
  polars==2.1.0 duckdb==2.0.1
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
from datetime import datetime
from importlib.metadata import version

import datasets
import duckdb
import fastparquet
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
DAYS = ["9999-12-31", "2024-05-01", "0001-01-01"]
column = pa.array([datetime.fromisoformat(day) for day in DAYS], pa.timestamp("us"))
pq.write_table(pa.table({"until": column}), "usual.parquet")
pq.write_table(pa.table({"until": column}), "int96.parquet", use_deprecated_int96_timestamps=True)
assert str(pq.read_metadata("int96.parquet").schema.column(0).physical_type) == "INT96"


def by_pandas(path, **how):
    return pandas.read_parquet(path, engine="pyarrow", **how)["until"].tolist()


READERS = {
    "pyarrow": lambda path: pq.read_table(path)["until"].cast(pa.string()).to_pylist(),
    "pandas": by_pandas,
    "fastparquet": lambda path: fastparquet.ParquetFile(path).to_pandas()["until"].tolist(),
    "datasets": lambda path: (
        datasets.Dataset.from_parquet(path, cache_dir="cache").data["until"].cast(pa.string())
    ).to_pylist(),
    "polars": lambda path: polars.read_parquet(path)["until"].to_list(),
    "duckdb": lambda path: [row[0] for row in duckdb.sql(f"from '{path}'").fetchall()],
}


def days(read, path):
    return [str(moment)[:10] for moment in read(path)]


print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
print(f"{'written':12}", *DAYS)
seen = {name: days(read, "int96.parquet") for name, read in READERS.items()}
for name, found in seen.items():
    print(f"{name:12}", *found)
    assert days(READERS[name], "usual.parquet") == DAYS, name
wrapped = ["1816-03-29", "2024-05-01", "1754-08-30"]
for name in ("pyarrow", "pandas", "fastparquet", "datasets"):
    assert seen[name] == wrapped, name
assert seen["polars"] == seen["duckdb"] == DAYS
asked = [str(moment)[:10] for moment in by_pandas("int96.parquet", coerce_int96_timestamp_unit="us")]
print("pandas, told the unit:", *asked)
assert asked == DAYS
PY
