#!/usr/bin/env bash
# A judge's answers as models write them, `{"safe": "false"}` with the word in quotes, a score of 3.9 for a whole
# number, null for a text, put into a class with fields of the types bool, int and str by nine libraries.
#
# Seen with cattrs 26.2.1, mashumaro 3.23, dataclasses-json 0.6.7, typedload 2.41, dacite 1.9.2, adaptix 3.0.0b12,
# beside pydantic 2.14.4, msgspec 0.23.0, marshmallow 3.26.2:
#   "false", "no" and "0" are True for cattrs (its converters for JSON too), mashumaro, dataclasses-json and
#   typedload, and for dacite and adaptix where they are told to convert: any text but an empty one is. Of 3.9 the
#   same six make 3, and so does marshmallow. Where a text was asked for, null is the four letters "None" for the
#   six, but for dataclasses-json, which leaves a None there. pydantic, and msgspec told not to be strict, give
#   False or raise, and raise on 3.9 and null; so does marshmallow on null. dacite and adaptix, not told to
#   convert, refuse all five. Nobody warns.
# So every answer is a yes once a model puts its booleans into quotes, a mean of scores is lower than the scores,
# and a name that is missing is a person called None.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q cattrs==26.2.1 mashumaro==3.23 dataclasses-json==0.6.7 typedload==2.41 \
  dacite==1.9.2 adaptix==3.0.0b12 pydantic==2.14.4 msgspec==0.23.0 marshmallow==3.26.2
cd "$work"
venv/bin/python -W ignore - <<'PY'
from dataclasses import dataclass
from importlib.metadata import version

import adaptix
import dacite
import marshmallow
import msgspec
import pydantic
import typedload
from cattrs.preconf.json import make_converter
from dataclasses_json import DataClassJsonMixin
from mashumaro import DataClassDictMixin

RIGHT = {"safe": False, "score": 3, "name": "Ann"}
ASKED = [("safe", word) for word in ("false", "no", "0")] + [("score", 3.9), ("name", None)]


@dataclass
class Answer:
    safe: bool
    score: int
    name: str


@dataclass
class ByMashumaro(Answer, DataClassDictMixin):
    pass


@dataclass
class ByDataclassesJson(Answer, DataClassJsonMixin):
    pass


class Fields(marshmallow.Schema):
    safe = marshmallow.fields.Boolean(required=True)
    score = marshmallow.fields.Integer(required=True)
    name = marshmallow.fields.String(required=True)


converts = dacite.Config(cast=[bool, int, str])
WAYS = {
    "cattrs": lambda row: make_converter().structure(row, Answer),
    "mashumaro": ByMashumaro.from_dict,
    "dataclasses-json": ByDataclassesJson.from_dict,
    "typedload": lambda row: typedload.load(row, Answer),
    "dacite, told to cast": lambda row: dacite.from_dict(Answer, row, converts),
    "adaptix, not strict": lambda row: adaptix.Retort(strict_coercion=False).load(row, Answer),
    "dacite": lambda row: dacite.from_dict(Answer, row),
    "adaptix": lambda row: adaptix.Retort().load(row, Answer),
    "pydantic": lambda row: pydantic.TypeAdapter(Answer).validate_python(row),
    "msgspec, not strict": lambda row: msgspec.convert(row, Answer, strict=False),
    "marshmallow": lambda row: Answer(**Fields().load(row)),
}


def made(way, field, value):
    try:
        return getattr(WAYS[way](RIGHT | {field: value}), field)
    except Exception:  # each library has errors of its own
        return "error"


names = sorted({way.split(",")[0] for way in WAYS})
print(*(f"{name} {version(name)}" for name in names), sep=", ")
seen = {}
for way, load in WAYS.items():
    for field, value in RIGHT.items():
        assert getattr(load(RIGHT), field) == value, way
    seen[way] = [made(way, field, value) for field, value in ASKED]
    told = (f"{value!r} {found!r}" for (_, value), found in zip(ASKED, seen[way]))
    print(f"    {way:22}", *told, sep="   ")
for way, name in zip(list(WAYS)[:6], ("None", "None", None, "None", "None", "None")):
    assert seen[way] == [True, True, True, 3, name], way
assert seen["dacite"] == seen["adaptix"] == ["error"] * 5
assert seen["pydantic"] == [False, False, False, "error", "error"]
assert seen["msgspec, not strict"] == [False, "error", False, "error", "error"]
assert seen["marshmallow"] == [False, False, False, 3, "error"]
PY
