#!/usr/bin/env bash
# Answers that are no whole JSON, cut off by a limit of tokens or written with a slip of the model's, by
# seven libraries that read such answers.
#
# Seen with pydantic-core 2.50.5 (`from_json(allow_partial=True)`), jiter 0.19.0 (`partial_mode=True`),
# langchain-core 1.8.3 (`parse_partial_json`), json-repair 0.64.6, fast-json-repair 0.2.3,
# partial-json-parser 0.2.1.1.post7, partialjson 1.2.0:
#   A slip is the end of the text for pydantic and jiter: of `2024-05-01` without quotes they read 2024,
#   of "he said "no"" two words, and the fields behind it are not there. json-repair mends both, but of
#   `10:30` it reads 10, of `+49 30 1234` 49, of `"5" kg` the 5, and of two objects, a line each, the last
#   alone if their keys are equal. fast-json-repair makes keys of what is left over ({"at": 10, "30": None}).
#   partialjson reads None for `+5`.
#   A number that was cut off is one for all seven: 12 of 1250. A word that was cut off (`t`) is true for
#   two, the text "t" for two, and not there for three; a key that was cut off is a field that is None
#   for two, and json-repair makes a list of its object. Nobody warns or says where the text ended.
# So a row that ended by length, or has one sign too many, comes out as an object with another number,
# and only who asks for the fields behind it notices.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pydantic==2.14.4 pydantic-core==2.50.5 jiter==0.19.0 \
  langchain-core==1.8.3 json-repair==0.64.6 fast-json-repair==0.2.3 \
  partial-json-parser==0.2.1.1.post7 partialjson==1.2.0
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import fast_json_repair
import jiter
import json_repair
import partial_json_parser
import pydantic_core
from langchain_core.utils.json import parse_partial_json
from partialjson.json_parser import JSONParser

quiet = JSONParser()
quiet.on_extra_token = lambda text, data, rest: None  # which would print
READERS = {
    "pydantic-core": lambda text: pydantic_core.from_json(text, allow_partial=True),
    "jiter": lambda text: jiter.from_json(text.encode(), partial_mode=True),
    "langchain-core": parse_partial_json,
    "json-repair": json_repair.loads,
    "fast-json-repair": fast_json_repair.loads,
    "partial-json-parser": partial_json_parser.loads,
    "partialjson": quiet.parse,
}
TEXTS = [
    '{"due": 2024-05-01, "sum": 5}',
    '{"note": "he said "no" to it", "sum": 5}',
    '{"at": 10:30, "sum": 5}',
    '{"weight": "5" kg, "sum": 5}',
    '{"call": +49 30 1234}',
    '{"change": +5}',
    '{"id": 1}\n{"id": 2}',
    '{"sum": 12',
    '{"paid": t',
    '{"tot',
]


def told(read, text):
    try:
        return read(text)
    except ValueError as error:
        return type(error)


print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
seen = {}
for text in TEXTS:
    print(repr(text))
    seen[text] = {name: told(read, text) for name, read in READERS.items()}
    for name, found in seen[text].items():
        print(f"    {name:20}", f"raises {found.__name__}" if isinstance(found, type) else found)


def each(text):
    """What the readers found, in their order; RAISED for one that raised."""
    return [RAISED if isinstance(found, type) else found for found in seen[text].values()]


RAISED = "raised"
due, note, at, weight, call, change, lines, cut, word, key = map(each, TEXTS)
# langchain-core, partial-json-parser and partialjson refuse the first four
assert all(found[2] == found[5] == found[6] == RAISED for found in (due, note, at, weight))
mended = [(found[0], found[3], found[4]) for found in (due, note, at, weight)]
assert mended == [
    ({"due": 2024}, {"due": "2024-05-01", "sum": 5}, {"due": 2024, "-05": -1, "sum": 5}),
    (
        {"note": "he said "},
        {"note": 'he said "no" to it', "sum": 5},
        {"note": "he said ", 'no"': "to", 'it"': None, "sum": 5},
    ),
    ({"at": 10}, {"at": 10, "sum": 5}, {"at": 10, "30": None, "sum": 5}),
    ({"weight": "5"}, {"weight": "5", "sum": 5}, {"weight": "5", "kg": None, "sum": 5}),
]
assert all(found[0] == found[1] for found in map(each, TEXTS)), "jiter is pydantic's parser"
last = [found[3:] for found in (call, change, lines)]
assert last == [
    [{"call": 49}, {"call": 49, "30": 1234}, RAISED, {"call": None}],
    [{"change": 5}, {"change": 5}, RAISED, {"change": None}],
    [{"id": 2}, [{"id": 1}, {"id": 2}], RAISED, {"id": 1}],
]
assert call[:3] == change[:3] == [RAISED] * 3 and lines[:3] == [{"id": 1}] * 3
assert cut == [{"sum": 12}] * 7
assert word == [{}] * 3 + [{"paid": "t"}] * 2 + [{"paid": True}] * 2
assert key == [{}] * 3 + [["tot"], {"tot": None}, {}, {"tot": None}]
PY
