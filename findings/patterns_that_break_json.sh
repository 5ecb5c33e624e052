#!/usr/bin/env bash
# JSON Schemas of one string with a `pattern`, and what three libraries that hold a model to a schema
# let it write: every text that they accept ought to be JSON, whatever the pattern is.
#
# Seen with outlines-core 0.2.14, xgrammar 0.2.9, llguidance 1.9.1:
#   outlines-core puts the pattern between two quotes as it stands. Of "yes|no" it makes `"yes` or
#   `no"`, and neither "yes" nor "no" can be written; `.` and `[^x]` take a quote, a backslash and a
#   line break, which end or break the string; `\S+` takes the two characters of an escaped line
#   break, so that the value has one. xgrammar knows better in these, but writes a quote, a backslash
#   or a line break that stands in the pattern itself as it is: `""ok""` under '^"ok"$'. llguidance
#   writes the JSON of what the pattern finds in all of them.
# So a job of labels under "yes|no" ends with all rows complete and none that json.loads reads.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 xgrammar==0.2.9 outlines-core==0.2.14 llguidance==1.9.1
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
import json
import re
from importlib.metadata import version

import xgrammar
from llguidance import LLMatcher, LLTokenizer
from outlines_core.json_schema import build_regex_from_schema

CASES = [
    ("yes|no", '"yes"'),
    ("yes|no", '"yes'),
    ("yes|no", 'no"'),
    ("^.{3}$", '"a\\"b"'),
    ("^.{3}$", '"a"b"'),
    ("^[^x]{3}$", '"ab\\"'),
    ("^[^x]{3}$", '"a\nb"'),
    (r"^\S+$", '"a\\nb"'),
    ('^"ok"$', '"\\"ok\\""'),
    ('^"ok"$', '""ok""'),
    (r"^\\d$", '"\\\\d"'),
    (r"^\\d$", '"\\d"'),
]
END = 256
vocabulary = xgrammar.TokenizerInfo(
    [bytes([i]) for i in range(END)] + [b"</s>"], xgrammar.VocabType.RAW, stop_token_ids=[END]
)
compiler = xgrammar.GrammarCompiler(vocabulary)
tokens = LLTokenizer("byte")


def by_rule(pattern, text):
    try:
        return re.search(pattern, json.loads(text)) is not None
    except ValueError:
        return "no JSON"


def by_outlines(schema, text):
    return re.fullmatch(build_regex_from_schema(schema), text) is not None


def by_xgrammar(schema, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema, strict_mode=False))
    return matcher.accept_string(text) and matcher.accept_token(END)


def by_llguidance(schema, text):
    matcher = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(schema))
    ids = tokens.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


LIBRARIES = {"outlines-core": by_outlines, "xgrammar": by_xgrammar, "llguidance": by_llguidance}
print(*(f"{name} {version(name)}" for name in LIBRARIES), sep=", ")
seen = []
for pattern, text in CASES:
    schema = json.dumps({"type": "string", "pattern": pattern})
    seen.append((by_rule(pattern, text), *(by(schema, text) for by in LIBRARIES.values())))
    shown = text.replace("\n", "<line break>")
    print(f"{pattern:10} {shown:22} allowed: {seen[-1][0]!s:8}", *seen[-1][1:])
assert seen == [
    (True, False, True, True),
    ("no JSON", True, False, False),
    ("no JSON", True, False, False),
    (True, False, False, True),
    ("no JSON", True, False, False),
    ("no JSON", True, False, False),
    ("no JSON", True, False, False),
    (False, True, False, False),
    (True, False, False, True),
    ("no JSON", True, True, False),
    (True, False, False, True),
    ("no JSON", True, True, False),
]
PY
