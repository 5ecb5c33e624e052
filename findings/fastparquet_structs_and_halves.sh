#!/usr/bin/env bash
# fastparquet on two kinds of column that other readers give back as written: 16-bit floats
# (embeddings), and lists of structs (chat messages).
#
# Seen with fastparquet 2026.9.0 on a file of pyarrow 26.0.1: each float16 comes as its two raw bytes
# (an object column of `bytes`), and a list of structs as None in every row. Neither warns; pandas'
# own read_parquet takes pyarrow where both are installed, so the loss appears on the machine that
# has fastparquet alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1 fastparquet==2026.9.0 numpy
cd "$work"
venv/bin/python - <<'PY'
import fastparquet
import numpy
import pyarrow as pa
import pyarrow.parquet as pq

halves = numpy.array([0.5, 2.0], numpy.float16)
chats = [[{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Bye"}]]
pq.write_table(pa.table({"half": halves, "chat": chats}), "x.parquet")
frame = fastparquet.ParquetFile("x.parquet").to_pandas()
seen = {name: frame[name].tolist() for name in frame}
print("pyarrow     ", pq.read_table("x.parquet").to_pydict())
print("fastparquet ", seen)
assert pq.read_table("x.parquet").to_pydict() == {"half": [0.5, 2.0], "chat": chats}
assert seen["half"] == [half.tobytes() for half in halves]
assert seen["chat"] == [None, None]
PY
