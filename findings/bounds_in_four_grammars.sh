#!/usr/bin/env bash
# JSON Schemas with bounds, on a number (a probability, a percentage) and on the length of a string, and
# what four libraries that hold a model to a schema let it write.
#
# Seen with xgrammar 0.2.9, outlines-core 0.2.14, llguidance 1.9.1, lm-format-enforcer 0.11.3, beside
# jsonschema 4.26.0:
#   outlines-core and lm-format-enforcer pass over `minimum`, `maximum` and `exclusiveMinimum` without
#   a word: a probability may be 10 or -1, a percentage 101. xgrammar and llguidance keep every bound,
#   but neither writes an exponent there, and xgrammar no more than six digits behind the point,
#   though as many as you like without a bound: 3e-7 can be written by neither of its spellings.
#   Into a string that has a `maxLength` xgrammar writes no backslash: a quote, a line
#   break, a tab cannot be said at all, however long the text may be. outlines-core and llguidance
#   write no \uXXXX for a letter, llguidance no `\/`, with bounds or without.
# So a score out of bounds is found behind the run or not at all, a small probability is a 0, and
# `"maxLength": 2000` on an answer of code makes one line of it, without quotes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 xgrammar==0.2.9 outlines-core==0.2.14 \
  llguidance==1.9.1 lm-format-enforcer==0.11.3 jsonschema==4.26.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
import json
import re
from importlib.metadata import version

import xgrammar
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from lmformatenforcer import CharacterLevelParserConfig, JsonSchemaParser
from outlines_core.json_schema import build_regex_from_schema

FREE = {"type": "number"}
PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
PERCENT = {"type": "integer", "minimum": 0, "maximum": 100}
POSITIVE = {"type": "number", "exclusiveMinimum": 0}
TEXT = {"type": "string"}
BOUNDED = {"type": "string", "maxLength": 2000}
PLAIN = ['"a b"', '"aéb"']
ESCAPED = [r'"a\nb"', r'"a\tb"', r'"a\"b"', r'"a\\b"', r'"a\/b"', r'"a\u00e9b"']
CASES = [
    (FREE, "0.1234567"),
    (FREE, "3E-7"),
    (PROBABILITY, "0.5"),
    (PROBABILITY, "0.123456"),
    (PROBABILITY, "0.1234567"),
    (PROBABILITY, "0.0000003"),
    (PROBABILITY, "3E-7"),
    (PROBABILITY, "1.5"),
    (PROBABILITY, "10"),
    (PROBABILITY, "-1"),
    (PERCENT, "100"),
    (PERCENT, "101"),
    (PERCENT, "-1"),
    (POSITIVE, "0.001"),
    (POSITIVE, "0"),
    *((TEXT, text) for text in (*PLAIN, *ESCAPED)),
    *((BOUNDED, text) for text in (*PLAIN, *ESCAPED)),
]
END = 256
vocabulary = xgrammar.TokenizerInfo(
    [bytes([i]) for i in range(END)] + [b"</s>"], xgrammar.VocabType.RAW, stop_token_ids=[END]
)
compiler = xgrammar.GrammarCompiler(vocabulary)
tokens = LLTokenizer("byte")
letters = CharacterLevelParserConfig(alphabet="".join(map(chr, range(32, 127))) + "é")


def by_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
    return matcher.accept_string(text) and matcher.accept_token(END)


def by_outlines(schema, text):
    return re.fullmatch(build_regex_from_schema(json.dumps(schema)), text) is not None


def by_llguidance(schema, text):
    matcher = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
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
print(*(f"{name} {version(name)}" for name in LIBRARIES), sep=", ")
too_much = {name: [] for name in LIBRARIES}
too_little = {name: [] for name in LIBRARIES}
for schema, text in CASES:
    valid = Draft202012Validator(schema).is_valid(json.loads(text))
    seen = {name: allows(schema, text) for name, allows in LIBRARIES.items()}
    print(f"{json.dumps(schema):54} {text:10} valid {valid!s:6}", *seen.values())
    for name, allowed in seen.items():
        if allowed != valid:
            (too_much if allowed else too_little)[name].append(text)
outside = ["1.5", "10", "-1", "101", "-1", "0"]
assert too_much == {
    "xgrammar": [],
    "outlines-core": outside,
    "llguidance": [],
    "lm-format-enforcer": outside,
}
assert too_little == {
    "xgrammar": ["0.1234567", "0.0000003", "3E-7", *ESCAPED],
    "outlines-core": [r'"a\u00e9b"'] * 2,
    "llguidance": ["3E-7", *[r'"a\/b"', r'"a\u00e9b"'] * 2],
    "lm-format-enforcer": [],
}
PY
