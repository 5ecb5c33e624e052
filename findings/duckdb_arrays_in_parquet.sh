#!/usr/bin/env bash
# Embeddings in a column of DuckDB's arrays (FLOAT[2]), one row without one, copied to Parquet and read by
# six libraries; beside it the same column as a list (FLOAT[]).
#
# Seen with duckdb 2.0.1, pyarrow 26.0.1, datasets 5.2.0, daft 0.7.26, polars 2.1.0, datafusion 55.0.0:
#   A missing array is written as two missing values (as many as the array is long) where Parquet has one
#   entry for a missing list. pyarrow, and with it pandas and datasets, and Daft refuse the column, in
#   batches of any size; DuckDB, Polars and DataFusion read what was meant, and nothing is said. The
#   file's other columns can be read, and its count of rows is right. As a list (`v::FLOAT[]`) all six
#   read it, and the array too where no row misses it.
# So the one document whose embedding failed makes a file that the next program cannot open, although the
# job that wrote it ended well and its own check of the file passed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q duckdb==2.0.1 pyarrow==26.0.1 datasets==5.2.0 polars==2.1.0 \
  datafusion==55.0.0
"$work/venv/bin/pip" install -q --no-deps daft==0.7.26 # its bound on pyarrow is 26; Parquet it reads itself
cd "$work"
HF_HOME=$work/hf DAFT_PROGRESS_BAR=0 DO_NOT_TRACK=1 venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import daft
import datafusion
import datasets
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

READERS = {
    "duckdb": lambda file: [row[0] for row in duckdb.sql(f"SELECT v FROM '{file}'").fetchall()],
    "pyarrow": lambda file: pq.read_table(file, columns=["v"])["v"].to_pylist(),
    "datasets": lambda file: datasets.Dataset.from_parquet(file)["v"][:],
    "daft": lambda file: daft.read_parquet(file).to_pydict()["v"],
    "polars": lambda file: pl.read_parquet(file)["v"].to_list(),
    "datafusion": lambda file: datafusion.SessionContext().read_parquet(file).to_pydict()["v"],
}
WHOLE, MISSING = [[1.0, 1.5], [2.0, 2.5], [3.0, 3.5]], [[1.0, 1.5], None, [3.0, 3.5]]
CASES = {
    "array, whole": ("[i, i + 0.5]::FLOAT[2]", WHOLE),
    "array, one missing": ("IF(i = 2, NULL, [i, i + 0.5])::FLOAT[2]", MISSING),
    "list, one missing": ("IF(i = 2, NULL, [i, i + 0.5])::FLOAT[]", MISSING),
}


def told(read, file, right):
    try:
        return "right" if read(file) == right else "wrong"
    except Exception as error:
        return f"refuses: {' '.join(str(error).split())[:80]}"


print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
seen, values = {}, {}
for case, (column, right) in CASES.items():
    file = f"{case.replace(', ', '_').replace(' ', '_')}.parquet"
    duckdb.sql(f"COPY (SELECT i AS id, {column} AS v FROM range(1, 4) t(i)) TO '{file}'")
    values[case] = pq.ParquetFile(file).metadata.row_group(0).column(1).num_values
    print(f"{case}: {values[case]} entries in the column")
    seen[case] = {name: told(read, file, right) for name, read in READERS.items()}
    for name, answer in seen[case].items():
        print(f"    {name:11}", answer)
assert values == {"array, whole": 6, "array, one missing": 6, "list, one missing": 5}
refused = {
    case: [name for name, answer in answers.items() if answer != "right"]
    for case, answers in seen.items()
}
assert refused == {
    "array, whole": [],
    "array, one missing": ["pyarrow", "datasets", "daft"],
    "list, one missing": [],
}
assert all(seen["array, one missing"][name].startswith("refuses") for name in ("pyarrow", "daft"))
broken = pq.ParquetFile("array_one_missing.parquet")
assert broken.metadata.num_rows == 3 and broken.read(["id"])["id"].to_pylist() == [1, 2, 3]
for size in (1, 2, 3):
    try:
        list(broken.iter_batches(size))
    except pa.ArrowInvalid as error:
        print(f"pyarrow in batches of {size}: {error}")
    else:
        raise SystemExit(f"pyarrow reads it in batches of {size}")
PY
