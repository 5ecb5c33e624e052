#!/usr/bin/env bash
# Six rows of JSON Lines in a compressed file of two parts, three rows each: zstd frames, gzip members,
# bzip2 or xz streams. Such a file is written by appending, by `cat a.zst b.zst`, by parallel
# compressors and by seekable formats; each format says that the parts are one file.
#
# Seen with daft 0.7.26, polars 2.1.0, duckdb 2.0.1, pandas 3.1.1:
#   Daft reads the first part of zstd, bzip2 and xz, three rows of six, without a word, and count()
#   agrees; of gzip it reads both. A zstd file whose first frame is empty it calls an empty JSON file.
#   Polars reads all rows or raises: a zstd file that begins with a skippable frame (as pzstd writes)
#   is taken for text, and so are bzip2 and xz. DuckDB and pandas read every row, but for bzip2 and xz,
#   which DuckDB refuses.
# So a job on what Daft reads ends complete, with the rows of the first of those workers that wrote the file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q daft==0.7.26 polars==2.1.0 duckdb==2.0.1 pandas==3.1.1 \
  zstandard==0.25.0
cd "$work"
DAFT_ANALYTICS_ENABLED=0 DAFT_PROGRESS_BAR=0 venv/bin/python - <<'PY'
import bz2
import gzip
import lzma
from importlib.metadata import version

import daft
import duckdb
import pandas
import polars
import zstandard

rows = [b'{"id": %d}\n' % number for number in range(6)]
parts = [b"".join(rows[:3]), b"".join(rows[3:])]
zstd = zstandard.ZstdCompressor().compress
skippable = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + bytes(4)
FILES = {
    "one.jsonl.zst": zstd(b"".join(parts)),
    "two.jsonl.zst": b"".join(map(zstd, parts)),
    "empty_first.jsonl.zst": zstd(b"") + zstd(b"".join(parts)),
    "skippable_first.jsonl.zst": skippable + zstd(b"".join(parts)),
    "two.jsonl.gz": b"".join(map(gzip.compress, parts)),
    "two.jsonl.bz2": b"".join(map(bz2.compress, parts)),
    "two.jsonl.xz": b"".join(map(lzma.compress, parts)),
}
READERS = {
    "daft": lambda path: daft.read_json(path).to_pydict()["id"],
    "polars": lambda path: polars.read_ndjson(path)["id"].to_list(),
    "duckdb": lambda path: [row[0] for row in duckdb.sql(f"from read_json('{path}')").fetchall()],
    "pandas": lambda path: pandas.read_json(path, lines=True)["id"].tolist(),
}


def told(read, path):
    try:
        found = read(path)
        return "all" if found == list(range(6)) else str(found)
    except Exception as error:
        return type(error).__name__


print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
seen = {}
for path, content in FILES.items():
    with open(path, "wb") as file:
        file.write(content)
    seen[path] = [told(read, path) for read in READERS.values()]
    print(f"{path:26}", "; ".join(seen[path]))
assert daft.read_json("two.jsonl.zst").count_rows() == 3
assert seen == {
    "one.jsonl.zst": ["all", "all", "all", "all"],
    "two.jsonl.zst": ["[0, 1, 2]", "all", "all", "all"],
    "empty_first.jsonl.zst": ["DaftCoreException", "all", "all", "all"],
    "skippable_first.jsonl.zst": ["DaftCoreException", "ComputeError", "all", "all"],
    "two.jsonl.gz": ["all", "all", "all", "all"],
    "two.jsonl.bz2": ["[0, 1, 2]", "ComputeError", "NotImplementedException", "all"],
    "two.jsonl.xz": ["[0, 1, 2]", "ComputeError", "NotImplementedException", "all"],
}
PY
