#!/usr/bin/env bash
# Ratings from 1 to 10 of a judge's, made class labels by datasets' own `class_encode_column`, as its
# stratified splits want them, stored as Parquet and read by datasets and by three others.
#
# Seen with datasets 5.2.0, pandas 3.1.1, polars 2.1.0, duckdb 2.0.1:
#   The classes are the ratings' letters in the order of letters, "1", "10", "2", and so on, and what is
#   stored is a class's place among them: 10 becomes 1, 1 becomes 0, and 2 to 9 stay what they were. The
#   names stand in the file for datasets alone; the other three read the places, and so does datasets'
#   `ds["rating"]`. A file without a 10 has other places for all its ratings: 2 is 1 there, not 2, and the
#   two files are put together by those who read places. datasets itself refuses that. No warning.
# So the best answers are among the worst wherever the numbers are used as numbers, eight of ten ratings are
# right, and a mean of them looks like a mean.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pandas==3.1.1 polars==2.1.0 duckdb==2.0.1
cd "$work"
HF_HOME=$work/hf venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import datasets
import duckdb
import pandas as pd
import polars as pl

datasets.disable_progress_bars()
FILES = {"all": list(range(1, 11)), "without a 10": list(range(1, 10))}
READERS = {
    "datasets": lambda file: datasets.Dataset.from_parquet(file)["rating"][:],
    "pandas": lambda file: pd.read_parquet(file)["rating"].to_list(),
    "polars": lambda file: pl.read_parquet(file)["rating"].to_list(),
    "duckdb": lambda file: [row[0] for row in duckdb.sql(f"FROM '{file}'").fetchall()],
}
print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
seen, kept = {}, []
for name, ratings in FILES.items():
    encoded = datasets.Dataset.from_dict({"rating": ratings}).class_encode_column("rating")
    file = f"{len(ratings)}.parquet"
    encoded.to_parquet(file)
    kept.append(datasets.Dataset.from_parquet(file))
    label = kept[-1].features["rating"]
    assert [int(label.int2str(place)) for place in kept[-1]["rating"]] == ratings
    print(f"{name}: ratings {ratings}, classes {label.names}")
    seen[name] = {reader: read(file) for reader, read in READERS.items()}
    for reader, found in seen[name].items():
        print(f"    {reader:9} {found}, mean {sum(found) / len(found)}")
assert seen["all"] == dict.fromkeys(READERS, [0, 2, 3, 4, 5, 6, 7, 8, 9, 1])
assert seen["without a 10"] == dict.fromkeys(READERS, list(range(9)))
both = duckdb.sql("SELECT rating FROM '*.parquet' ORDER BY ALL").fetchall()
print("both files, by DuckDB:", [row[0] for row in both])
assert len(both) == 19
try:
    datasets.concatenate_datasets(kept)
except ValueError as error:
    print("both files, by datasets:", str(error).splitlines()[0][:90])
else:
    raise SystemExit("datasets puts the files together")
PY
