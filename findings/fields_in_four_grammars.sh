#!/usr/bin/env bash
# JSON Schemas that say which fields an object has (fields shared by several forms, fields that ask for
# others, names of fields), each with values: what jsonschema says of them, and what four libraries that
# hold a model to a schema let it write.
#
# Seen with xgrammar 0.2.9, outlines-core 0.2.14, llguidance 1.9.1, lm-format-enforcer 0.11.3, beside
# jsonschema 4.26.0:
#   Of fields that stand beside an `anyOf` of forms xgrammar writes the form alone, outlines-core the fields
#   alone, and neither can write both. A field that is `required` and not among `properties` they leave
#   out, and cannot write. Both and lm-format-enforcer pass over `if`, `not`, `dependentRequired` and
#   `contains`, outlines-core and lm-format-enforcer over `propertyNames`; beside `properties` those two
#   write nothing of what `additionalProperties` allows. For xgrammar a name under `patternProperties` is
#   the pattern's whole text, for lm-format-enforcer it is any. Nothing is said. llguidance agrees with
#   jsonschema, or refuses the schema and names the keyword.
# So every row has JSON of a plausible form, and none has the id that stands beside the forms, or the sum
# that `then` asks for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 xgrammar==0.2.9 outlines-core==0.2.14 llguidance==1.9.1 \
  lm-format-enforcer==0.11.3 jsonschema==4.26.0
"$work/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import json
import re
from importlib.metadata import version

import xgrammar
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from lmformatenforcer import CharacterLevelParserConfig, JsonSchemaParser
from outlines_core.json_schema import build_regex_from_schema

WHOLE, TEXT = {"type": "integer"}, {"type": "string"}


def thing(**says):
    return {"type": "object", **says}


ONLY = {"additionalProperties": False}
FORMS = [
    {"properties": {"answer": WHOLE}, "required": ["answer"]},
    {"properties": {"refusal": TEXT}, "required": ["refusal"]},
]
CASES = {
    "anyOf": (
        thing(properties={"id": WHOLE}, required=["id"], anyOf=FORMS),
        ['{"id": 1, "answer": 2}', '{"id": 1}', '{"answer": 2}'],
    ),
    "required alone": (
        thing(properties={"id": WHOLE}, required=["id", "sum"]),
        ['{"id": 1, "sum": 2}', '{"id": 3}'],
    ),
    "if": (
        thing(
            properties={"label": {"enum": ["refund", "other"]}, "sum": WHOLE},
            required=["label"],
            **ONLY,
            **{"if": {"properties": {"label": {"const": "refund"}}}, "then": {"required": ["sum"]}},
        ),
        ['{"label": "refund", "sum": 2}', '{"label": "refund"}'],
    ),
    "not": ({"type": "string", "not": {"enum": ["n/a"]}}, ['"yes"', '"n/a"']),
    "dependentRequired": (
        thing(
            properties={"sum": WHOLE, "unit": TEXT}, dependentRequired={"sum": ["unit"]}, **ONLY
        ),
        ['{"sum": 1, "unit": "g"}', '{"sum": 1}'],
    ),
    "contains": (
        {"type": "array", "items": TEXT, "contains": {"const": "end"}},
        ['["a", "end"]', '["a"]'],
    ),
    "propertyNames": (
        thing(additionalProperties=WHOLE, propertyNames={"enum": ["mon", "tue"]}),
        ['{"mon": 1}', '{"Monday": 1}'],
    ),
    "additionalProperties": (
        thing(properties={"id": WHOLE}, required=["id"], additionalProperties=TEXT),
        ['{"id": 1, "note": "a"}', '{"id": 1, "note": 2}'],
    ),
    "patternProperties": (
        thing(patternProperties={"^n_": WHOLE}, **ONLY),
        ['{"n_a": 1}', '{"n_": 1}', '{"n_": "b"}', '{"z": 1}'],
    ),
}
END = 256
vocabulary = xgrammar.TokenizerInfo(
    [bytes([i]) for i in range(END)] + [b"</s>"], xgrammar.VocabType.RAW, stop_token_ids=[END]
)
compiler = xgrammar.GrammarCompiler(vocabulary)
tokens = LLTokenizer("byte")
letters = CharacterLevelParserConfig(alphabet="".join(map(chr, range(32, 127))))


def by_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
    return matcher.accept_string(text) and matcher.accept_token(END)


def by_outlines(schema, text):
    return re.fullmatch(build_regex_from_schema(json.dumps(schema)), text) is not None


def by_llguidance(schema, text):
    matcher = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    ids = tokens.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def by_enforcer(schema, text):
    parser = JsonSchemaParser(schema, config=letters)
    for letter in text:
        if letter not in parser.get_allowed_characters():
            return False
        parser = parser.add_character(letter)
    return parser.can_end()


LIBRARIES = {
    "xgrammar": by_xgrammar,
    "outlines-core": by_outlines,
    "llguidance": by_llguidance,
    "lm-format-enforcer": by_enforcer,
}
REFUSES = "refuses the schema"


def told(writes, schema, text):
    try:
        return bool(writes(schema, text))
    except Exception:
        return REFUSES


print(*(f"{name} {version(name)}" for name in (*LIBRARIES, "jsonschema")), sep=", ")
seen = {}
for case, (schema, texts) in CASES.items():
    print(case)
    for text in texts:
        valid = Draft202012Validator(schema).is_valid(json.loads(text))
        answers = {name: told(writes, schema, text) for name, writes in LIBRARIES.items()}
        print(f"    {text:28} {'valid' if valid else 'not valid'}:", *map(str, answers.items()))
        seen[text] = [answer if answer == REFUSES else answer == valid for answer in answers.values()]
right, wrong, refuses = True, False, REFUSES  # in the order of the libraries
assert seen == {
    '{"id": 1, "answer": 2}': [wrong, wrong, right, refuses],
    '{"answer": 2}': [wrong, right, right, refuses],
    '{"id": 1}': [right, wrong, right, refuses],
    '{"id": 1, "sum": 2}': [wrong, wrong, right, wrong],
    '{"id": 3}': [wrong, wrong, right, right],
    '{"label": "refund", "sum": 2}': [right, right, refuses, right],
    '{"label": "refund"}': [wrong, wrong, refuses, wrong],
    '"yes"': [right, right, refuses, right],
    '"n/a"': [wrong, wrong, refuses, wrong],
    '{"sum": 1, "unit": "g"}': [right, right, refuses, right],
    '{"sum": 1}': [wrong, wrong, refuses, wrong],
    '["a", "end"]': [right, right, refuses, right],
    '["a"]': [wrong, wrong, refuses, wrong],
    '{"mon": 1}': [right, right, refuses, right],
    '{"Monday": 1}': [right, wrong, refuses, wrong],
    '{"id": 1, "note": "a"}': [right, wrong, right, wrong],
    '{"id": 1, "note": 2}': [right, right, right, right],
    '{"n_a": 1}': [wrong, refuses, right, right],
    '{"n_": 1}': [right, refuses, right, right],
    '{"n_": "b"}': [right, refuses, right, wrong],
    '{"z": 1}': [right, refuses, right, wrong],
}
PY
