#!/usr/bin/env bash
# Rows of an id, one of them null, a moment in seconds, and a hash of 64 bits, in datasets' format "numpy": one by one,
# as a column, in batches of four and of two, and through `map` and `filter` by batches.
#
# Seen with datasets 5.2.0, numpy 2.4.6, pyarrow 26.0.1:
#   A row alone has its numbers as they are. In a column, a slice or a batch floats have 32 bits: moments of today are a
#   multiple of 128 seconds, and the time from one row to the next is 0. Whole numbers have them too where a row of the
#   batch has none: ids past 2^24, 16,777,216, become their neighbours', and in batches of two those alone that have a null are off. A hash of 2^63 or more is
#   a negative number. `filter` looks at batches, also for a function of one row: for one id it finds two rows. What
#   `map` by batches gives back is stored as it was seen, what it does not give back stays. `map` row by row is right,
#   and so are the formats "arrow" and "polars". Nothing is said.
# So a job that makes a key of each id gives two rows one key, by what else was in the batch, and measures no time, and
# its trial on single rows is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 numpy==2.4.6 pyarrow==26.0.1 polars==2.1.0
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import datasets
import pyarrow as pa

datasets.disable_progress_bars()
START = 1_764_600_000
COLUMNS = {
    "id": pa.array([2**24, 2**24 + 1, None, 2**24 + 3]),
    "at": pa.array([START + 0.25, START + 1.5, START + 2.75, START + 4.0]),
    "hash": pa.array([1, 2**63 + 5, 2**64 - 1, 3], pa.uint64()),
}
ROWS = pa.table(COLUMNS).to_pylist()
NAN = "NaN"
plain = datasets.Dataset(pa.table(COLUMNS))
asked = plain.with_format("numpy")


def told(values):
    return [NAN if value != value else int(value) if float(value).is_integer() else float(value) for value in values]


def keys(batch):
    return {"key": [None if number != number else f"row {number:.0f}" for number in batch["id"]]}


def waits(batch):
    return {"waited": batch["at"] - batch["at"][0]}


print(*(f"{name} {version(name)}" for name in ("datasets", "numpy", "pyarrow")), sep=", ")
print("rows as they are  ", ROWS)
alone = [asked[place] for place in range(len(ROWS))]
batch, by_twos = asked[:], list(asked.iter(batch_size=2))
for name in COLUMNS:
    print(f"    {name:4} row by row     ", [row[name] if row[name] is None else row[name].item() for row in alone])
    print(f"    {name:4} in one batch   ", batch[name].dtype, told(batch[name]))
    print(f"    {name:4} in twos        ", *(f"{pair[name].dtype} {told(pair[name])}" for pair in by_twos))
    for place in (0, 1, 3):
        assert alone[place][name] == ROWS[place][name], name
    assert told(batch[name]) == told(asked[name][:]), name
rounded = [2**24, 2**24, NAN, 2**24 + 4]
assert told(batch["id"]) == rounded and [told(pair["id"]) for pair in by_twos] == [[2**24, 2**24 + 1], rounded[2:]]
assert told(batch["at"]) == [START + 64] * 4 and told(batch["hash"]) == [1, 5 - 2**63, -1, 3]

made = asked.map(lambda rows: keys(rows) | waits(rows), batched=True).with_format(None)
print("    keys made by batches", made["key"][:], "waited", made["waited"][:], "ids", made["id"][:])
assert made["key"][:] == [f"row {2**24}", f"row {2**24}", None, f"row {2**24 + 4}"]
assert made["waited"][:] == [0] * 4 and made["id"][:] == plain["id"][:]
given = asked.map(lambda rows: {name: rows[name] for name in COLUMNS}, batched=True).with_format(None)
print("    given back by batches", given.to_dict())
assert told(given["id"][:]) == rounded and given["hash"][:] == [1, 5 - 2**63, -1, 3]
assert given["at"][:] == [START + 64] * 4
single = asked.filter(lambda row: row["id"] == 2**24 + 1)
several = asked.filter(lambda rows: rows["id"] == 2**24 + 1, batched=True)
print(f"    rows of the id {2**24 + 1}: {len(single)} one by one, {len(several)} by batches")
assert len(single) == len(several) == 2
one_by_one = asked.map(lambda row: {"key": f"row {row['id']}"}).with_format(None)
assert one_by_one["key"][:] == [f"row {2**24}", f"row {2**24 + 1}", "row nan", f"row {2**24 + 3}"]
for form, rows in (("arrow", lambda found: found.to_pylist()), ("polars", lambda found: found.to_dicts())):
    assert rows(plain.with_format(form)[:]) == ROWS, form
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
