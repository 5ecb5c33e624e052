#!/usr/bin/env bash
# Valid JSON Schemas (2020-12), each with a value: what jsonschema says of it, and what three
# libraries that hold a model to a schema let it write.
#
# Seen with xgrammar 0.2.9, outlines-core 0.2.14, llguidance 1.9.1, jsonschema 4.26.0:
#   A `pattern` is searched for; xgrammar and outlines-core take it for the whole text, so that
#   under "^b" no model can write "bcd". Both pass over, without a word, what stands beside a `$ref`,
#   a type beside an `enum`, a step of `multipleOf` that is no whole number, and `uniqueItems`; so
#   they let the model write what the schema forbids. xgrammar takes the first of `allOf` alone.
#   llguidance agrees with jsonschema in all of these, or refuses the schema and says why.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 xgrammar==0.2.9 outlines-core==0.2.14 \
  llguidance==1.9.1 jsonschema==4.26.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
import json
import re

import xgrammar
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from outlines_core.json_schema import build_regex_from_schema

WHOLE = {"type": "integer"}
CASES = [
    ({"type": "string", "pattern": "^b"}, "bcd"),
    ({"$ref": "#/$defs/n", "maximum": 3, "$defs": {"n": WHOLE}}, 9),
    ({"type": ["integer", "null"], "enum": [1, None, "x"]}, "x"),
    ({"type": "number", "multipleOf": 0.1}, 0.15),
    ({"type": "array", "items": WHOLE, "uniqueItems": True}, [1, 1]),
    (
        {
            "allOf": [
                {"type": "object", "properties": {"a": WHOLE}, "required": ["a"]},
                {"properties": {"b": WHOLE}, "required": ["b"]},
            ]
        },
        {"a": 1},
    ),
]
END = 256
vocabulary = xgrammar.TokenizerInfo(
    [bytes([i]) for i in range(END)] + [b"</s>"], xgrammar.VocabType.RAW, stop_token_ids=[END]
)
compiler = xgrammar.GrammarCompiler(vocabulary)
tokens = LLTokenizer("byte")


def by_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema, strict_mode=False))
    return matcher.accept_string(text) and matcher.accept_token(END)


def by_outlines(schema, text):
    return re.fullmatch(build_regex_from_schema(schema), text) is not None


def by_llguidance(schema, text):
    matcher = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(schema))
    if matcher.is_error():
        return "refuses the schema"
    ids = tokens.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


seen = []
for schema, value in CASES:
    given, text = json.dumps(schema), json.dumps(value)
    valid = Draft202012Validator(schema).is_valid(value)
    seen.append((valid, *(by(given, text) for by in (by_xgrammar, by_outlines, by_llguidance))))
    print(f"{text:9} {given}")
    print("          valid {}; xgrammar {}, outlines-core {}, llguidance {}".format(*seen[-1]))
assert seen == [
    (True, False, False, True),
    (False, True, True, False),
    (False, True, True, False),
    (False, True, True, False),
    (False, True, True, "refuses the schema"),
    (False, True, False, False),
]
PY
