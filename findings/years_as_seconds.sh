#!/usr/bin/env bash
# Moments as models write them into JSON where a date-time was asked for: a year alone ("2024"), the 1st of May as
# digits ("20240501"), and times of a day as a number (1230); put into fields of Python's types by seven libraries.
#
# Seen with pydantic 2.14.4, msgspec 0.23.0, beside cattrs 26.2.1, mashumaro 3.23, apischema 0.19.0, typedload 2.41,
# adaptix 3.0.0b12:
#   For pydantic digits are seconds since 1970, in a text as well: 2024 and "2024" are half past midnight on the
#   1st of January 1970, and "20240501", which ISO 8601 writes for a day, is the 23rd of August 1970; more than
#   eleven digits are milliseconds, so that "202405011230" is 1976. 1230 for a time is 00:20:30, and 12.5 is 12
#   seconds after midnight. msgspec, told not to be strict, does the same with moments; strict, it refuses all of
#   them. The other five read the 1st of May 2024, and refuse a year alone. "2024-05-01" is itself for all but
#   msgspec, which wants a time. Nobody warns.
# So an answer in a form that the schema did not name passes the check, and is not asked again, as a day half a
# century ago; two rows of one document are sorted by how the model wrote the year.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pydantic==2.14.4 msgspec==0.23.0 cattrs==26.2.1 mashumaro==3.23 apischema==0.19.0 \
  typedload==2.41 adaptix==3.0.0b12
cd "$work"
venv/bin/python -W ignore - <<'PY'
from datetime import datetime, time
from importlib.metadata import version

import adaptix
import apischema
import msgspec
import typedload
from cattrs.preconf.json import make_converter
from mashumaro.codecs import BasicDecoder
from pydantic import TypeAdapter

MOMENTS = ["2024-05-01T12:30:00", "2024-05-01", "2024", 2024, "20240501", "202405011230"]
TIMES = ["12:30:00", 1230, 12.5]
WAYS = {
    "pydantic": lambda value, kind: TypeAdapter(kind).validate_python(value),
    "msgspec, not strict": lambda value, kind: msgspec.convert(value, kind, strict=False),
    "msgspec": msgspec.convert,
    "cattrs": lambda value, kind: make_converter().structure(value, kind),
    "mashumaro": lambda value, kind: BasicDecoder(kind).decode(value),
    "apischema": lambda value, kind: apischema.deserialize(kind, value),
    "typedload": typedload.load,
    "adaptix": lambda value, kind: adaptix.Retort().load(value, kind),
}


def read(way, value, kind):
    try:
        return WAYS[way](value, kind).replace(tzinfo=None).isoformat()
    except Exception:  # each library has errors of its own
        return None


print(*(f"{name} {version(name)}" for name in sorted({way.split(",")[0] for way in WAYS})), sep=", ")
seen = {}
for way in WAYS:
    seen[way] = [read(way, value, datetime) for value in MOMENTS], [read(way, value, time) for value in TIMES]
    print(way, *(f"    {value!r:22} {found}" for value, found in zip(MOMENTS + TIMES, sum(seen[way], []))), sep="\n")
whole, day, year = "2024-05-01T12:30:00", "2024-05-01T00:00:00", "1970-01-01T00:33:44"
digits = "1970-08-23T06:21:41"
assert seen["pydantic"] == (
    [whole, day, year, year, digits, "1976-05-31T15:36:51.230000"],
    ["12:30:00", "00:20:30", "00:00:12.500000"],
)
moments, times = seen["msgspec, not strict"]
assert moments[:5] == [whole, None, year, year, digits] and moments[5].startswith("8383-") and times[1:] == [None] * 2
assert seen["msgspec"] == ([whole] + [None] * 5, ["12:30:00", None, None])
for way in list(WAYS)[3:]:
    moments, times = seen[way]
    assert moments[:4] == [whole, day, None, None] and moments[4] == day, way
    assert times == [None if way == "cattrs" else "12:30:00", None, None], way  # cattrs knows no times
PY
