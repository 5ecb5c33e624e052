#!/usr/bin/env bash
# The rows of an Iceberg table that are not done, by four filters that say the same: what pyiceberg's
# scan gives, and what its delete and its overwrite with that filter take away. Two rows have no
# status, one has NaN for a score.
#
# Seen with pyiceberg 0.12.0, pyarrow 26.0.1:
#   `status not in ('ok', 'skipped')` finds the rows without a status; `status not in ('ok')` does not,
#   nor does `status != 'ok'`: a list of one is another filter. The same filter that finds them deletes
#   none of them, so that `overwrite` with what was made of the scan's rows leaves them in the table
#   twice, the old row and the new one. `not (score > 0.5)` finds NaN and deletes it as little; `score
#   <= 0.5` does not find it. No warning.
# So rows that are taken to be done again, and written back under the filter that found them, are
# doubled, and a second status in the list decides whether rows without one are done at all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "pyiceberg[sql-sqlite]==0.12.0" pyarrow==26.0.1
cd "$work"
HOME=$work venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version
from math import nan
from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

here = Path.cwd()
catalog = SqlCatalog("local", uri=f"sqlite:///{here}/catalog.db", warehouse=f"file://{here}/tables")
catalog.create_namespace("jobs")
ROWS = pa.table(
    {
        "id": [1, 2, 3, 4, 5],
        "status": ["ok", None, "error", None, "skipped"],
        "score": [0.9, nan, 0.1, None, 0.4],
    }
)
FILTERS = [
    "status != 'ok'",
    "status not in ('ok')",
    "status not in ('ok', 'skipped')",
    "not (score > 0.5)",
    "score <= 0.5",
]


def table():
    made = catalog.create_table(f"jobs.t{len(catalog.list_tables('jobs'))}", ROWS.schema)
    made.append(ROWS)
    return made


def ids(rows):
    return sorted(rows["id"].to_pylist())


seen = {}
for where in FILTERS:
    found = table().scan(row_filter=where).to_arrow()
    deleted, redone = table(), table()
    deleted.delete(where)
    redone.overwrite(found, overwrite_filter=where)
    seen[where] = [ids(found), ids(deleted.scan().to_arrow()), ids(redone.scan().to_arrow())]
print(*(f"{name} {version(name)}" for name in ("pyiceberg", "pyarrow")), sep=", ")
for where, (found, left, redone) in seen.items():
    print(f"{where:32} finds {found}, deleting leaves {left}, written back: {redone}")
assert seen == {
    "status != 'ok'": [[3, 5], [1, 2, 4], [1, 2, 3, 4, 5]],
    "status not in ('ok')": [[3, 5], [1, 2, 4], [1, 2, 3, 4, 5]],
    "status not in ('ok', 'skipped')": [[2, 3, 4], [1, 2, 4, 5], [1, 2, 2, 3, 4, 4, 5]],
    "not (score > 0.5)": [[2, 3, 5], [1, 2, 4], [1, 2, 2, 3, 4, 5]],
    "score <= 0.5": [[3, 5], [1, 2, 4], [1, 2, 3, 4, 5]],
}
PY
