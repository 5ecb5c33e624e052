#!/usr/bin/env bash
# A Parquet column of decimals with more than 38 digits, read by five libraries.
#
# Seen with pyarrow 26.0.1, duckdb 2.0.1, polars 2.1.0, fastparquet 2026.9.0, datasets 5.2.0:
#   pyarrow and datasets give every digit back; DuckDB and fastparquet give a 64-bit float without a
#   warning, 23 of 49 digits wrong or gone; Polars raises ("precision must be between 1 and 38").
# So the same file is exact, rounded or unreadable, and the two that round do not say so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0 fastparquet==2026.9.0 \
  datasets==5.2.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
from decimal import Decimal

import datasets
import duckdb
import fastparquet
import polars
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
digits = Decimal("1234567890123456789012345678901234567890.123456789")
pq.write_table(pa.table({"x": pa.array([digits], pa.decimal256(60, 9))}), "x.parquet")


def by_polars():
    try:
        return polars.read_parquet("x.parquet")["x"][0]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


seen = {
    "pyarrow": pq.read_table("x.parquet")["x"][0].as_py(),
    "datasets": datasets.Dataset.from_parquet("x.parquet", cache_dir="cache")[0]["x"],
    "duckdb": duckdb.sql("select x from 'x.parquet'").fetchall()[0][0],
    "fastparquet": fastparquet.ParquetFile("x.parquet").to_pandas()["x"][0],
    "polars": by_polars(),
}
print("written     ", digits)
for name, value in seen.items():
    print(f"{name:12} {type(value).__name__:8} {value}")
assert seen["pyarrow"] == seen["datasets"] == digits
assert isinstance(seen["duckdb"], float) and Decimal(seen["duckdb"]) != digits
assert isinstance(seen["fastparquet"], float) and Decimal(float(seen["fastparquet"])) != digits
assert "precision must be between 1 and 38" in seen["polars"]
PY
