#!/usr/bin/env bash
# A column of the type `arrow.json` (as datasets and DuckDB write tools, schemas and arguments of calls),
# with the text of each row as it was given: stored in Lance and in Vortex, and in Parquet read by chDB,
# Polars, DuckDB and DataFusion.
#
# Seen with pylance 14.0.2, chdb 4.4.0, vortex-data 0.93.0, polars 2.1.0, duckdb 2.0.1, datafusion 55.0.0,
# pyarrow 26.0.1:
#   Lance and chDB parse the text and write it again: keys are sorted, 1.10 is 1.1, digits past a float's
#   are gone. chDB drops keys whose value is null or an empty object; of a text that is a date alone it
#   makes midnight, if a row before it has a time at that key; a number of 2^64 becomes a text, and the
#   document `null` an object. Lance makes a float of that number, and null of one past a float's range.
#   Vortex and the other three give the text back. A column of strings with the same texts, all give
#   back. Nobody says a word.
# So a tool without parameters loses its `properties`, an optional one its default, and a tool's fields
# change their order: the prompt that a chat template makes of the row is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pylance==14.0.2 chdb==4.4.0 vortex-data==0.93.0 polars==2.1.0 \
  duckdb==2.0.1 datafusion==55.0.0 pyarrow==26.0.1
cd "$work"
venv/bin/python - <<'PY'
from importlib.metadata import version

import chdb
import datafusion
import duckdb
import lance
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import vortex

ROWS = [
    '{"type": "object", "properties": {}}',
    '{"name": "day", "default": null}',
    '{"price": 1.10}',
    '{"on": "2024-05-01 10:00:00"}',
    '{"on": "2024-05-01"}',
    '{"id": 18446744073709551616}',
    '{"x": 1e400}',
    "null",
]


def by_lance(rows):
    lance.write_dataset(rows, "rows.lance", mode="overwrite")
    return lance.dataset("rows.lance").to_table()["doc"].to_pylist()


def by_vortex(rows):
    vortex.io.write(vortex.array(rows), "rows.vortex")
    return vortex.open("rows.vortex").to_arrow().read_all()["doc"].to_pylist()


def by_chdb(rows):
    found = chdb.query("SELECT doc FROM file('rows.parquet', Parquet)", "Arrow").bytes()
    return pa.ipc.open_file(found).read_all()["doc"].to_pylist()


READERS = {
    "pylance": by_lance,
    "chdb": by_chdb,
    "vortex-data": by_vortex,
    "polars": lambda rows: pl.read_parquet("rows.parquet")["doc"].to_list(),
    "duckdb": lambda rows: [row[0] for row in duckdb.sql("FROM 'rows.parquet'").fetchall()],
    "datafusion": lambda rows: (
        datafusion.SessionContext().read_parquet("rows.parquet").to_pydict()["doc"]
    ),
}


def read(type_, texts):
    rows = pa.table({"doc": pa.array(texts, type_)})
    pq.write_table(rows, "rows.parquet")
    found = {}
    for name, by in READERS.items():
        try:
            found[name] = by(rows)
        except Exception as error:
            found[name] = [f"refuses: {' '.join(str(error).split())[:60]}"] * len(texts)
    return found


print(*(f"{name} {version(name)}" for name in [*READERS, "pyarrow"]), sep=", ")
PAST = ROWS.index('{"x": 1e400}')  # chDB refuses the file for its sake, so that it stands alone
usual = [row for n, row in enumerate(ROWS) if n != PAST]
seen = read(pa.json_(), usual)
for name, found in seen.items():
    print(name)
    for given, got in zip(usual, found, strict=True):
        print(f"    {given:38} {'as it was' if got == given else got}")
far = {name: found[0] for name, found in read(pa.json_(), [ROWS[PAST]]).items()}
print(ROWS[PAST], far)
assert seen == dict.fromkeys(READERS, usual) | {
    "pylance": [
        '{"properties":{},"type":"object"}',
        '{"default":null,"name":"day"}',
        '{"price":1.1}',
        '{"on":"2024-05-01 10:00:00"}',
        '{"on":"2024-05-01"}',
        '{"id":1.8446744073709552e+19}',
        "null",
    ],
    "chdb": [
        '{"type":"object"}',
        '{"name":"day"}',
        '{"price":1.1}',
        '{"on":"2024-05-01 10:00:00"}',
        '{"on":"2024-05-01 00:00:00"}',
        '{"id":"18446744073709551616"}',
        "{}",
    ],
}
assert far.pop("pylance") == '{"x":null}' and far.pop("chdb").startswith("refuses")
assert set(far.values()) == {ROWS[PAST]}
assert read(pa.string(), ROWS) == dict.fromkeys(READERS, ROWS)
PY
