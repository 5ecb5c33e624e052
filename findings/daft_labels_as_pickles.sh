#!/usr/bin/env bash
# A column of labels, each stored once as a table of a few labels has it (pandas' category, Polars'
# Categorical, DuckDB's ENUM, Arrow's dictionary), or as Arrow's string views, handed to Daft, filtered and
# written to Parquet; and the same labels as plain strings.
#
# Seen with daft 0.7.26, pyarrow 25.0.1, pandas 3.1.1, polars 2.1.0, duckdb 2.0.1:
#   Daft has no type for these and takes each text for a Python object. Shown, filtered and counted all is
#   as it should be; in the Parquet file each label is its pickle, 16 bytes for one letter. Daft itself
#   reads text there again; pyarrow, pandas, Polars and DuckDB read bytes, and nothing equals "a". A
#   Parquet file with such a column that Daft reads itself, not by way of pyarrow, has text. No warning.
# So the labels, the models' names or the splits of a whole data set are gone for every other reader, and
# a join on them finds nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q daft==0.7.26 pyarrow==25.0.1 pandas==3.1.1 polars==2.1.0 duckdb==2.0.1
cd "$work"
DAFT_PROGRESS_BAR=0 DO_NOT_TRACK=1 venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import daft
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

LABELS = ["a", "b", "a"]
coded = pa.table({"label": pa.array(LABELS).dictionary_encode()})
pq.write_table(coded, "coded.parquet")
as_enum = duckdb.sql("SELECT unnest(['a', 'b', 'a'])::ENUM ('a', 'b') AS label")
views = pl.CompatLevel.newest()
TABLES = {
    "pandas category": daft.from_pandas(pd.DataFrame({"label": pd.Categorical(LABELS)})),
    "polars Categorical": daft.from_arrow(
        pl.DataFrame({"label": LABELS}, schema={"label": pl.Categorical}).to_arrow()
    ),
    "duckdb ENUM": daft.from_arrow(as_enum.to_arrow_table()),
    "arrow dictionary": daft.from_arrow(coded),
    "its file, by pyarrow": daft.from_arrow(pq.read_table("coded.parquet")),
    "string views": daft.from_arrow(pl.DataFrame({"label": LABELS}).to_arrow(compat_level=views)),
    "its file, by daft": daft.read_parquet("coded.parquet"),
    "pandas strings": daft.from_pandas(pd.DataFrame({"label": LABELS})),
    "polars strings": daft.from_arrow(pl.DataFrame({"label": LABELS}).to_arrow()),
}
READERS = {
    "daft": lambda file: daft.read_parquet(file).to_pydict()["label"],
    "pyarrow": lambda file: pq.read_table(file)["label"].to_pylist(),
    "pandas": lambda file: pd.read_parquet(file)["label"].to_list(),
    "polars": lambda file: pl.read_parquet(file)["label"].to_list(),
    "duckdb": lambda file: [row[0] for row in duckdb.sql(f"FROM '{file}'").fetchall()],
}
print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
texts = []
for name, rows in TABLES.items():
    folder = name.replace(" ", "_").replace(",", "")
    written = rows.write_parquet(folder).to_pydict()["path"]
    assert len(written) == 1 and rows.to_pydict()["label"] == LABELS
    assert rows.where(daft.col("label") == "a").count_rows() == 2
    found = {reader: read(written[0]) for reader, read in READERS.items()}
    print(f"{name:20} in Daft {rows.to_pydict()['label']}, of its file pyarrow reads {found['pyarrow'][0]}")
    assert found["daft"] == LABELS
    others = [labels for reader, labels in found.items() if reader != "daft"]
    if others == [LABELS] * 4:
        texts.append(name)
        continue
    for labels in others:
        assert [type(label) for label in labels] == [bytes] * 3, labels
        assert labels[0] == labels[2] != labels[1] and len(labels[0]) == 16
        assert labels[0][:2] == b"\x80\x05", "no pickle"  # what a pickle of protocol 5 begins with
assert texts == ["its file, by daft", "pandas strings", "polars strings"]
PY
