#!/usr/bin/env bash
# Answers gathered as a list of dictionaries, one a row, the first of which has no `error`, as most have
# none; and a struct in which the first row's has no `why`. The list is handed to eight libraries.
#
# Seen with pyarrow 26.0.1, datasets 5.2.0, datafusion 55.0.0, dask 2026.8.0, polars 2.1.0, pandas 3.1.1,
# ray 2.60.0, vortex-data 0.93.0:
#   Table.from_pylist, Dataset.from_list, DataFusion's from_pylist and a Dask bag's to_dataframe take the
#   fields of the first row for those of all: `error` is nowhere, without a warning, though the late field
#   inside the struct is kept, and pyarrow's own `array` of that list keeps both. Polars keeps both if they
#   come within the first 100 rows, and behind them neither, as silently. pandas, Ray and Vortex keep them
#   wherever they come.
# So a table of results has no errors at all whenever its first row went well, and sorting the same list
# by another key brings them back.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1 datasets==5.2.0 datafusion==55.0.0 \
  "dask[dataframe]==2026.8.0" polars==2.1.0 pandas==3.1.1 "ray[data]==2.60.0" vortex-data==0.93.0
cd "$work"
cat > rows.py <<'PY'
from importlib.metadata import version

import dask.bag
import datafusion
import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import ray
import vortex


def rows(late):
    """Rows of which one has an error, and a reason in its struct: the one at `late`."""
    return [
        {"id": n, "usage": {"n": n}}
        if n != late
        else {"id": n, "usage": {"n": n, "why": "long"}, "error": "too long"}
        for n in range(200)
    ]


def by_dask(given):
    bag = dask.bag.from_sequence(given, npartitions=1)
    return bag.to_dataframe().compute(scheduler="sync").to_dict("records")


def by_ray(given):
    return sorted(ray.data.from_items(given).take_all(), key=lambda row: row["id"])


LIBRARIES = {
    "pyarrow": lambda given: pa.Table.from_pylist(given).to_pylist(),
    "datasets": lambda given: list(datasets.Dataset.from_list(given)),
    "datafusion": lambda given: datafusion.SessionContext().from_pylist(given).to_pylist(),
    "dask": by_dask,
    "polars": lambda given: pl.DataFrame(given).to_dicts(),
    "pandas": lambda given: pd.DataFrame(given).to_dict("records"),
    "ray": by_ray,
    "vortex-data": lambda given: vortex.array(given).to_pylist(),
}


def kept(read, late):
    row = read(rows(late))[late]
    return [field for field in ("error", "why") if "long" in str((row | row["usage"]).get(field))]


def main():
    print(*(f"{name} {version(name)}" for name in LIBRARIES), sep=", ")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    seen = {name: [kept(read, late) for late in (0, 1, 150)] for name, read in LIBRARIES.items()}
    for name, found in seen.items():
        print(f"{name:12} keeps of row 0 {found[0]}, of row 1 {found[1]}, of row 150 {found[2]}")
    both = ["error", "why"]
    assert seen == dict.fromkeys(LIBRARIES, [both] * 3) | {
        "pyarrow": [both, ["why"], ["why"]],
        "datasets": [both, ["why"], ["why"]],
        "datafusion": [both, ["why"], ["why"]],
        "dask": [both, ["why"], ["why"]],
        "polars": [both, both, []],
    }
    assert pa.array(rows(150)).to_pylist()[150]["error"] == "too long"


if __name__ == "__main__":
    main()
PY
HF_HOME=$work/hf RAY_DATA_DISABLE_PROGRESS_BARS=1 venv/bin/python -W ignore rows.py 2>/dev/null
