#!/usr/bin/env bash
# A Parquet file through Ray Data's `map_batches` with a function that returns its batch as it came, in
# the default format of batches and in the two others; each column with a null in some row, and without.
#
# Seen with ray 2.60.0, pyarrow 26.0.1:
#   The default, numpy, has no null for numbers. One null makes floats of a column of 64-bit ids, so
#   that ids beyond 2^53 become others, and neighbours the same one; nulls become NaN, which a filter for
#   nulls no longer finds. Numbers inside structs, and inside the structs of a list (a chat's messages),
#   are floats as well, though the null beside them stays one: a tool's `"count": 5` is 5.0. Columns
#   that the function never looks at are changed too. Without a null all is as it was, and so it is
#   with batch_format="pyarrow" or "pandas". Nobody warns.
# So one row without an id changes the ids of the others, and answers are joined to other rows, in a job
# whose function touches neither.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "ray[data]==2.60.0" pyarrow==26.0.1 pandas==3.1.1
cd "$work"
cat > look.py <<'PY'
import logging
import os
from importlib.metadata import version
from math import isnan

import pyarrow as pa
import pyarrow.parquet as pq
import ray

quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
ray.init(num_cpus=1, _temp_dir=f"{os.getcwd()}/ray", **quiet)
ray.data.DataContext.get_current().enable_progress_bars = False
ID = 2**53 + 1
WITH = {
    "id": pa.array([ID, ID - 1, None]),
    "score": pa.array([0.5, 0.25, None]),
    "struct": pa.array([{"seed": ID}, {"seed": 7}, {"seed": None}]),
    "messages": pa.array([[{"role": "tool", "count": 5}, {"role": "user", "count": None}], [], []]),
}
FORMATS = ("numpy", "pandas", "pyarrow")


def through(table, name):
    rows = ray.data.read_parquet(f"{table}.parquet").map_batches(lambda batch: batch, batch_format=name)
    columns = {}
    for row in rows.take_all():
        for key, value in row.items():
            columns.setdefault(key, []).append(value.tolist() if hasattr(value, "tolist") else value)
    return columns


pq.write_table(pa.table(WITH), "with.parquet")
pq.write_table(pa.table(WITH).slice(0, 2).drop(["messages"]), "without.parquet")
seen = {name: through("with", name) for name in FORMATS}
print(f"ray {version('ray')}, pyarrow {version('pyarrow')}")
for key in WITH:
    print(f"{key:9}", *(f"{name}: {seen[name][key]}" for name in FORMATS), sep="\n    ")
    assert seen["pandas"][key] == seen["pyarrow"][key] == WITH[key].to_pylist()
by_numpy = seen["numpy"]
assert by_numpy["id"][:2] == [2.0**53] * 2 and isnan(by_numpy["id"][2])
assert by_numpy["score"][:2] == [0.5, 0.25] and isnan(by_numpy["score"][2])
assert repr(by_numpy["struct"]) == repr([{"seed": 2.0**53}, {"seed": 7.0}, {"seed": None}])
assert [repr(part["count"]) for part in by_numpy["messages"][0]] == ["5.0", "None"]
sound = {key: WITH[key].to_pylist()[:2] for key in ("id", "score", "struct")}
assert repr(through("without", "numpy")) == repr(sound)
PY
RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_USAGE_STATS_ENABLED=0 venv/bin/python -W ignore look.py 2>said ||
  { cat said; exit 1; }
