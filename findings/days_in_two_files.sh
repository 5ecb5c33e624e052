#!/usr/bin/env bash
# Two Parquet files of one table, a day's rows each, read together by seven libraries, the first day's file
# named first. On the first day all scores were whole numbers, all codes digits without a zero in front, no
# row had an error (a column of the type null), and a usage had one field less than on the second.
#
# Seen with daft 0.7.26, chdb 4.4.0, duckdb 2.0.1, pyarrow 25.0.1, dask 2026.8.0, polars 2.1.0,
# datafusion 55.0.0:
#   Daft and chDB make all rows of the first file's types, and of what does not fit nothing: 0.7 is 0, the
#   errors of the second day are null, and so is the word "none" among numbers. DuckDB rounds, 0.7 is 1, and
#   raises on the other two. The code 01067 is 1067 for these three and for pyarrow, and all four drop the
#   field that the first day did not have; pyarrow raises on the rest. DuckDB with union_by_name and Dask
#   keep everything. Polars refuses each of the five, DataFusion three. With the second day's file named
#   first all but those two have every value. No warning.
# So what a folder holds depends on the day that its first file is of, and two programs that read the same
# files have other scores, each without an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q daft==0.7.26 chdb==4.4.0 duckdb==2.0.1 pyarrow==25.0.1 \
  "dask[dataframe]==2026.8.0" pandas==3.1.1 polars==2.1.0 datafusion==55.0.0
cd "$work"
cat > days.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import chdb
import daft
import dask.dataframe
import datafusion
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

CASES = {
    "score": ([1, 0], [0.7, 0.2]),
    "code": ([10115, 10117], ["01067", "01069"]),
    "error": (pa.nulls(2), ["too long", None]),
    "word": ([1, 2], ["none", "3"]),
    "usage": ([{"n": 1}, {"n": 2}], [{"n": 3, "why": "long"}, {"n": 4, "why": "stop"}]),
}
REFUSES = "refuses"
USAGE = [{"n": 3}, {"n": 4}]
# what Daft and chDB make of the second day's values, and what those do that neither keep nor refuse them
FITTED = {
    "score": [0, 0],
    "code": [1067, 1069],
    "error": [None, None],
    "word": [None, 3],
    "usage": USAGE,
}
OTHERS = {
    "score": {"duckdb": [1, 0]},
    "code": {"duckdb": [1067, 1069], "pyarrow": [1067, 1069]},
    "error": {"datafusion": ["too long", None]},
    "word": {},
    "usage": {"duckdb": USAGE, "pyarrow": USAGE, "datafusion": CASES["usage"][1]},
}


def by_chdb(first, second):
    files = f"{Path(first).parent}/{{{Path(first).stem},{Path(second).stem}}}.parquet"
    query = f"SELECT * FROM file('{files}', Parquet)"
    return [json.loads(line) for line in str(chdb.query(query, "JSONEachRow")).splitlines()]


def by_duckdb(**options):
    return lambda *files: duckdb.read_parquet(list(files), **options).to_arrow_table().to_pylist()


def by_dask(*files):
    rows = dask.dataframe.read_parquet(list(files), dtype_backend="pyarrow")
    return rows.compute(scheduler="sync").to_dict("records")


def by_datafusion(folder):  # it takes no list of files
    return datafusion.SessionContext().read_parquet(folder).to_pylist()


READERS = {
    "daft": lambda *files: daft.read_parquet(list(files)).to_pylist(),
    "chdb": by_chdb,
    "duckdb": by_duckdb(),
    "duckdb, by name": by_duckdb(union_by_name=True),
    "pyarrow": lambda *files: pa.dataset.dataset(list(files)).to_table().to_pylist(),
    "dask": by_dask,
    "polars": lambda *files: pl.read_parquet(list(files)).to_dicts(),
    "datafusion": lambda *files: by_datafusion(Path(files[0]).parent),
}


def second_day(read, *files):
    """What the rows of the second day, whose ids are 3 and 4, are when both files were read."""
    try:
        rows = {row["id"]: row["value"] for row in read(*files)}
    except Exception:
        return REFUSES
    return [rows[3], rows[4]]


def written(folder, first, then):
    """The files of the two days' tables, in their order."""
    Path(folder).mkdir()
    files = [f"{folder}/1.parquet", f"{folder}/2.parquet"]
    for file, rows in zip(files, (first, then)):
        pq.write_table(rows, file)
    return files


def main():
    names = [name for name in READERS if "," not in name]
    print(*(f"{name} {version(name)}" for name in names), sep=", ")
    seen, turned = {}, {}
    for case, (first, then) in CASES.items():
        days = pa.table({"id": [1, 2], "value": first}), pa.table({"id": [3, 4], "value": then})
        files, backwards = written(case, *days), written(f"{case}-turned", *reversed(days))
        seen[case] = {name: second_day(read, *files) for name, read in READERS.items()}
        turned[case] = {name: second_day(read, *backwards) for name, read in READERS.items()}
        print(f"{case}: the second day's are {then}")
        for name, found in seen[case].items():
            print(f"    {name:16} {found}; if that day is first: {turned[case][name]}")
        whole = [row["value"] for row in days[1].to_pylist()]
        wrong = {name for name, found in turned[case].items() if found not in (whole, REFUSES)}
        assert not wrong and {"polars", "datafusion"}.issuperset(
            name for name, found in turned[case].items() if found == REFUSES
        )
        assert seen[case] == dict.fromkeys(READERS, REFUSES) | {
            "daft": FITTED[case],
            "chdb": FITTED[case],
            "duckdb, by name": whole,
            "dask": whole,
        } | OTHERS[case]


if __name__ == "__main__":
    main()
PY
DAFT_PROGRESS_BAR=0 DO_NOT_TRACK=1 venv/bin/python -W ignore days.py 2>/dev/null
