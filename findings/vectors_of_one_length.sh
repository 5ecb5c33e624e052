#!/usr/bin/env bash
# Embeddings as Arrow's lists of one length (`pa.list_(pa.float32(), 2)`, datasets' `List(..., length=2)`,
# Polars' Array), one row without one, written to Parquet by pyarrow, datasets and Polars.
#
# Seen with pyarrow 25.0.1 and 26.0.1, datasets 5.2.0, polars 2.1.0, duckdb 2.0.1:
#   pyarrow 25 writes such a column and cannot read it: "Expected all lists to be of size=2", wherever the
#   missing row stands, and neither can datasets above it. Nor can it read the file that Polars writes.
#   Polars and DuckDB read all three, and so does pyarrow 26. A missing number inside a vector does no harm,
#   and as lists of any length pyarrow 25 reads the same rows. Writing says nothing.
# So a run ends well, and its file cannot be opened by the release that wrote it, because one document of a
# million had no embedding.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for release in 25.0.1 26.0.1; do
  python3 -m venv "$work/$release"
  "$work/$release/bin/pip" install -q pyarrow==$release datasets==5.2.0 polars==2.1.0 duckdb==2.0.1
done
cd "$work"
export HF_HOME=$work/hf
cat > write.py <<'PY'
import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

WHOLE, MISSING = [[1.0, 2.0], [3.0, None], [5.0, 6.0]], [[1.0, 2.0], None, [5.0, 6.0]]
datasets.disable_progress_bars()
vector = pa.list_(pa.float32(), 2)
pq.write_table(pa.table({"v": pa.array(WHOLE, vector)}), "pyarrow-whole.parquet")
pq.write_table(pa.table({"v": pa.array(MISSING, vector)}), "pyarrow-missing.parquet")
any_length = pa.array(MISSING, pa.list_(pa.float32()))
pq.write_table(pa.table({"v": any_length}), "pyarrow-any_length.parquet")
pl.DataFrame({"v": MISSING}, schema={"v": pl.Array(pl.Float32, 2)}).write_parquet(
    "polars-missing.parquet"
)
kind = datasets.Features({"v": datasets.List(datasets.Value("float32"), length=2)})
datasets.Dataset.from_dict({"v": MISSING}, kind).to_parquet("datasets-missing.parquet")
PY
cat > read.py <<'PY'
import json
from pathlib import Path

import datasets
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
READERS = {
    "pyarrow": lambda file: pq.read_table(file)["v"].to_pylist(),
    "datasets": lambda file: datasets.Dataset.from_parquet(file, cache_dir=pa.__version__)["v"][:],
    "polars": lambda file: pl.read_parquet(file)["v"].to_list(),
    "duckdb": lambda file: [row[0] for row in duckdb.sql(f"SELECT v FROM '{file}'").fetchall()],
}
found = {}
print("pyarrow", pa.__version__)
for file in sorted(Path().glob("*.parquet")):
    second = [3.0, None] if "whole" in file.name else None
    right = [[1.0, 2.0], second, [5.0, 6.0]]
    for name, read in READERS.items():
        try:
            rows = [row if row is None else list(row) for row in read(str(file))]
            said = "right" if rows == right else "wrong"
        except Exception as error:
            said = "refuses"
            print(f"    {file.stem} by {name}: {' '.join(str(error).split())[:70]}")
        found.setdefault(file.stem, {})[name] = said
    print(f"    {file.stem:20}", *(f"{name} {said}" for name, said in found[file.stem].items()))
Path(f"{pa.__version__}.json").write_text(json.dumps(found))
PY
25.0.1/bin/python write.py 2>/dev/null
for release in 25.0.1 26.0.1; do
  $release/bin/python read.py 2>/dev/null
done
26.0.1/bin/python - <<'PY'
import json

old, new = (json.load(open(f"{release}.json")) for release in ("25.0.1", "26.0.1"))
right = dict.fromkeys(("pyarrow", "datasets", "polars", "duckdb"), "right")
assert new == dict.fromkeys(new, right) and len(new) == 5
assert old == new | {
    file: right | {"pyarrow": "refuses", "datasets": "refuses"}
    for file in ("pyarrow-missing", "datasets-missing", "polars-missing")
}
PY
