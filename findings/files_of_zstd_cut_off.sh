#!/usr/bin/env bash
# Files of rows in zstd that end too soon, as one does whose job was killed or whose copy was broken off. The
# job flushed after each row, so that what is there can be read, and never wrote the frame's end: 100 rows,
# the file's first half. As JSON Lines and as CSV, beside the same in gzip.
#
# Seen with zstandard 0.25.0, pandas 3.1.1, duckdb 2.0.1, polars 2.1.0, pyarrow 26.0.1, datasets 5.2.0,
# pyzstd 0.20.0:
#   zstandard, and pandas above it, and DuckDB give the rows that they find and end as if the file did: 48 of
#   100. Polars, pyarrow, datasets and pyzstd raise. Of gzip all raise. zstd's frame says where it ends and
#   may carry a checksum, and these have one; zstandard and DuckDB compare it only if they get that far.
#   Where a row is cut within, pandas and DuckDB complain of its JSON; of CSV they take the cut text for the
#   row's answer.
# So a table, a count or a mean is of half the rows, and an answer that ends amid a word looks like one that
# the model gave.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q zstandard==0.25.0 pandas==3.1.1 duckdb==2.0.1 polars==2.1.0 \
  pyarrow==26.0.1 datasets==5.2.0 pyzstd==0.20.0
cd "$work"
HF_HOME=$work/hf venv/bin/python -W ignore - <<'PY' 2>said || { cat said; exit 1; }
import gzip
import io
import json
from importlib.metadata import version

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow.csv
import pyarrow.json
import pyzstd
import zstandard

datasets.disable_progress_bars()
ROWS = 100
ANSWER = "it was the second of them"
LINES = {
    "jsonl": ["", *(json.dumps({"id": n, "answer": ANSWER}) + "\n" for n in range(ROWS))],
    "csv": ["id,answer\n", *(f"{n},{ANSWER}\n" for n in range(ROWS))],
}


def zstd_flushed(lines):
    """Bytes of one frame with a checksum, and where each line ends in it."""
    file, ends = io.BytesIO(), []
    writer = zstandard.ZstdCompressor(write_checksum=True).stream_writer(file, closefd=False)
    for line in lines:
        writer.write(line.encode())
        writer.flush(zstandard.FLUSH_BLOCK)
        ends.append(file.tell())
    writer.close()
    return file.getvalue(), ends


def by_zstandard(name):
    with open(name, "rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file))
        return [line.rstrip() for line in text if "answer\n" not in line]


def by_pyzstd(name):
    with pyzstd.open(name, "rt") as file:
        return [line.rstrip() for line in file if "answer\n" not in line]


def of_pandas(name):
    read = pd.read_csv(name) if "csv" in name else pd.read_json(name, lines=True)
    return read["answer"].to_list()


def of_duckdb(name):
    return [row[0] for row in duckdb.sql(f"SELECT answer FROM '{name}'").fetchall()]


def of_polars(name):
    return (pl.read_csv if "csv" in name else pl.read_ndjson)(name)["answer"].to_list()


def of_pyarrow(name):
    read = pyarrow.csv.read_csv if "csv" in name else pyarrow.json.read_json
    return read(name)["answer"].to_pylist()


def of_datasets(name):
    kind = "csv" if "csv" in name else "json"
    return list(datasets.load_dataset(kind, data_files=name, split="train")["answer"])


PLAIN = {"zstandard": by_zstandard, "pyzstd": by_pyzstd}
TABLES = {
    "pandas": of_pandas, "duckdb": of_duckdb, "polars": of_polars, "pyarrow": of_pyarrow, "datasets": of_datasets,
}
print(*(f"{name} {version(name)}" for name in (*PLAIN, *TABLES)), sep=", ")


def seen(name, readers):
    found = {}
    for reader, read in readers.items():
        try:
            found[reader] = read(name)
        except Exception as error:
            found[reader] = type(error).__name__
    told = {who: rows if isinstance(rows, str) else f"{len(rows)} rows" for who, rows in found.items()}
    print(f"{name}:", ", ".join(f"{who} {what}" for who, what in told.items()))
    return found


for kind, lines in LINES.items():
    whole, ends = zstd_flushed(lines)
    with open(f"whole.{kind}.zst", "wb") as file:
        file.write(whole)
    for rows in seen(f"whole.{kind}.zst", PLAIN | TABLES).values():
        assert len(rows) == ROWS
    rows_there = sum(end <= len(whole) // 2 for end in ends[1:])
    with open(f"half.{kind}.zst", "wb") as file:
        file.write(whole[: len(whole) // 2])
    found = seen(f"half.{kind}.zst", PLAIN | TABLES)
    for reader in ("zstandard", "pandas", "duckdb"):
        assert len(found.pop(reader)) == rows_there < ROWS, reader
    assert all(isinstance(rows, str) for rows in found.values()), "nobody raised"
    packed = gzip.compress("".join(lines).encode())
    with open(f"half.{kind}.gz", "wb") as file:
        file.write(packed[: len(packed) // 2])
    assert all(isinstance(rows, str) for rows in seen(f"half.{kind}.gz", TABLES).values())

# blocks that end within a row: the file is cut between them
for kind, lines in LINES.items():
    text = "".join(lines[:50])
    whole, ends = zstd_flushed([text + lines[50][:-8], lines[50][-8:], *lines[51:]])
    with open(f"within.{kind}.zst", "wb") as file:
        file.write(whole[: ends[0] + 3])
    found = seen(f"within.{kind}.zst", {who: TABLES[who] for who in ("pandas", "duckdb")})
    for rows in found.values():
        if kind == "csv":
            assert len(rows) == 50 and rows[-1] == ANSWER[:-7]
        else:
            assert isinstance(rows, str)
PY
cat said
