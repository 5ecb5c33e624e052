#!/usr/bin/env bash
# A JSON Lines column of text in which every text happens to be a moment: is it text again?
#
# Seen with datasets 5.2.0, pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1, pandas 3.1.1:
#   pyarrow.json, and with it datasets, makes timestamps of it: "2024-05-01T12:00:00+02:00" comes
#   back as 10:00 without a zone, so neither the text nor the offset can be had again. DuckDB makes
#   timestamps with a zone. Polars and pandas leave the text as it is. One row that is no moment
#   ("unknown"), and all five give text. To ask datasets for strings with `features` does not help:
#   they are made of the timestamps, "2024-05-01 10:00:00".
# So the answers of a job that extracts dates are text or not by whether a single one went wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 polars==2.1.0 duckdb==2.0.1 \
  pandas==3.1.1
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
import json

import datasets
import duckdb
import pandas
import polars
import pyarrow.json

datasets.disable_progress_bars()
MOMENTS = ["2024-05-01T12:00:00+02:00", "2024-05-01T12:00:00Z"]


def by_datasets(path, features=None):
    data = datasets.Dataset.from_json(path, cache_dir="cache", features=features)
    return data["answer"][:]


READERS = {
    "datasets": by_datasets,
    "pyarrow": lambda path: pyarrow.json.read_json(path)["answer"].to_pylist(),
    "duckdb": lambda path: [row[0] for row in duckdb.sql(f"from '{path}'").fetchall()],
    "polars": lambda path: polars.read_ndjson(path)["answer"].to_list(),
    "pandas": lambda path: pandas.read_json(path, lines=True)["answer"].tolist(),
}
for name, texts in {"all": MOMENTS, "mixed": [*MOMENTS, "unknown"]}.items():
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"answer": text}) + "\n" for text in texts)
found = {name: read("all.jsonl") for name, read in READERS.items()}
print(f"{'given':10}", MOMENTS)
for name, values in found.items():
    print(f"{name:10}", [value if isinstance(value, str) else repr(value) for value in values])
for name in ("datasets", "pyarrow"):
    assert [str(value) for value in found[name]] == ["2024-05-01 10:00:00", "2024-05-01 12:00:00"]
    assert all(value.tzinfo is None for value in found[name])
assert all(value.tzinfo is not None for value in found["duckdb"])
assert found["polars"] == found["pandas"] == MOMENTS
for name, read in READERS.items():
    assert read("mixed.jsonl") == [*MOMENTS, "unknown"], name
text = datasets.Features({"answer": datasets.Value("string")})
asked = by_datasets("all.jsonl", text)
print(f"{'datasets, asked for strings':28}", asked)
assert asked == ["2024-05-01 10:00:00", "2024-05-01 12:00:00"]
PY
