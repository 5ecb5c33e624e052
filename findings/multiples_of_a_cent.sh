#!/usr/bin/env bash
# Prices from 0.00 to 99.99 under the JSON Schema {"type": "number", "multipleOf": 0.01}: all 10,000
# are multiples of a cent. Five validators and llguidance, which holds a model to the schema.
#
# Seen with jsonschema 4.26.0, fastjsonschema 2.22.3, jsonschema-rs 0.61.2, pydantic 2.14.4,
# llguidance 1.9.1, ajv 8.20.0 (npm):
#   jsonschema and ajv divide in binary floats: both refuse the same 1,363 prices, of which 0.07, 0.14
#   and 0.28 are the first. fastjsonschema, jsonschema-rs, pydantic and llguidance take all of them
#   and refuse 0.005. ajv is right about all if it is given `multipleOfPrecision`.
# So what a model wrote under the schema, held to it letter by letter, fails the check behind it for
# one price in seven, and a retry does not help: the price is what the text says.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q jsonschema==4.26.0 fastjsonschema==2.22.3 jsonschema-rs==0.61.2 \
  pydantic==2.14.4 llguidance==1.9.1
cd "$work"
npm install --silent --no-audit --no-fund --cache "$work/npm" ajv@8.20.0
cat > by_ajv.js <<'JS'
const Ajv = require("ajv")
const schema = { type: "number", multipleOf: 0.01 }
const refused = (options) => {
  const valid = new Ajv(options).compile(schema)
  const cents = [...Array(10000).keys()]
  return cents.filter((cent) => !valid(JSON.parse((cent / 100).toFixed(2))))
}
console.log(JSON.stringify([refused({}), refused({ multipleOfPrecision: 6 })]))
JS
node by_ajv.js > ajv.json
venv/bin/python - <<'PY'
import json
from importlib.metadata import version
from typing import Annotated

import fastjsonschema
import jsonschema
import jsonschema_rs
import pydantic
from llguidance import LLMatcher, LLTokenizer

SCHEMA = {"type": "number", "multipleOf": 0.01}
by_fast = fastjsonschema.compile({"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA})
by_pydantic = pydantic.TypeAdapter(Annotated[float, pydantic.Field(multiple_of=0.01)])
tokens = LLTokenizer("byte")
held = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA)))


def without_error(call, given):
    try:
        call(given)
    except ValueError:  # fastjsonschema's and pydantic's own errors are of this kind
        return False
    return True


def by_llguidance(text):
    held.reset()
    ids = tokens.tokenize_str(text)
    return held.try_consume_tokens(ids) == len(ids) and held.is_accepting()


LIBRARIES = {
    "jsonschema": lambda text: jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text)),
    "fastjsonschema": lambda text: without_error(by_fast, json.loads(text)),
    "jsonschema-rs": lambda text: jsonschema_rs.is_valid(SCHEMA, json.loads(text)),
    "pydantic": lambda text: without_error(by_pydantic.validate_json, text),
    "llguidance": by_llguidance,
}
print(*(f"{name} {version(name)}" for name in LIBRARIES), sep=", ")
prices = [f"{cent // 100}.{cent % 100:02}" for cent in range(10_000)]
refused = {
    name: [cent for cent, price in enumerate(prices) if not valid(price)]
    for name, valid in LIBRARIES.items()
}
refused["ajv"], refused["ajv, multipleOfPrecision"] = json.load(open("ajv.json"))
for name, cents in refused.items():
    print(f"{name:25} refuses {len(cents):5}", *(prices[cent] for cent in cents[:5]))
assert len(refused["jsonschema"]) == 1363
assert refused["jsonschema"] == refused["ajv"]
assert [prices[cent] for cent in refused["jsonschema"][:3]] == ["0.07", "0.14", "0.28"]
assert {name for name, cents in refused.items() if cents} == {"jsonschema", "ajv"}
assert not any(valid("0.005") for valid in LIBRARIES.values())
PY
