#!/usr/bin/env bash
# JSON Schemas of one string, without and with bounds on its length, and texts that are valid under
# them: which can a model write that a library holds to the schema?
#
# Seen with xgrammar 0.2.9, outlines-core 0.2.14, llguidance 1.9.1, lm-format-enforcer 0.11.3, beside
# jsonschema 4.26.0:
#   xgrammar writes no backslash into a string that has `minLength` or `maxLength`: a quote, a line
#   break, a tab or a backslash cannot be said at all, however long the text may be, though in a
#   string without bounds they can. outlines-core and llguidance write no \uXXXX for a letter, and
#   llguidance no `\/`, which a model may still want. lm-format-enforcer takes each of these, and
#   counts an escape as one letter. All count letters, not bytes.
# So `"maxLength": 2000` on an answer of code, or of several lines, makes one line of it, with no
# quotes, and no validator can see that anything is amiss.
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
SCHEMAS = {
    "free": {"type": "string"},
    "at most 2000": {"type": "string", "maxLength": 2000},
    "exactly 3": {"type": "string", "minLength": 3, "maxLength": 3},
}
TEXTS = ['"a b"', r'"a\nb"', r'"a\tb"', r'"a\"b"', r'"a\\b"', r'"a\/b"', '"aéb"', r'"a\u00e9b"']
print(*(f"{name} {version(name)}" for name in LIBRARIES), sep=", ")
refused = {}
for kind, schema in SCHEMAS.items():
    assert all(Draft202012Validator(schema).is_valid(json.loads(text)) for text in TEXTS)
    print(kind, json.dumps(schema))
    for name, allows in LIBRARIES.items():
        refused[kind, name] = [text for text in TEXTS if not allows(schema, text)]
        print(f"    {name:19} refuses", *refused[kind, name])
escapes = [text for text in TEXTS if "\\" in text]
for kind in SCHEMAS:
    assert refused[kind, "xgrammar"] == ([] if kind == "free" else escapes), kind
    assert refused[kind, "outlines-core"] == [r'"a\u00e9b"'], kind
    assert refused[kind, "llguidance"] == [r'"a\/b"', r'"a\u00e9b"'], kind
    assert refused[kind, "lm-format-enforcer"] == [], kind
PY
