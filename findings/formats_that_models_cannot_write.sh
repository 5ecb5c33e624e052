#!/usr/bin/env bash
# Strings with a `format` (date-time, date, time, uuid, uri, email), valid ones and others, by
# outlines-core and llguidance, which hold a model to a JSON Schema, and by jsonschema-rs, which checks
# what was written, told to check formats.
#
# Seen with outlines-core 0.2.14, llguidance 1.9.1, jsonschema-rs 0.61.2:
#   Under date-time outlines-core writes Z or nothing behind the time: no offset ("+02:00"), no
#   fraction but one of three digits; without Z the text is no date-time, and the check refuses it.
#   It writes no uuid in capitals and no `mailto:`, but the 30th of February. For ipv4 and seven more
#   formats it raises. llguidance writes all of these that are valid and none of the others; four
#   formats that it does not know (json-pointer, uri-reference, regex, iri) it refuses and says so.
# So a model that is to copy "2024-05-01T12:00:00+02:00" from its prompt is made to write another
# moment, two hours later with a Z, or one that the check behind it refuses.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q outlines-core==0.2.14 llguidance==1.9.1 jsonschema-rs==0.61.2
"$work/venv/bin/python" - <<'PY'
import json
import re
from importlib.metadata import version

import jsonschema_rs
from llguidance import LLMatcher, LLTokenizer
from outlines_core.json_schema import build_regex_from_schema

CASES = [
    ("date-time", "2024-05-01T12:00:00Z"),
    ("date-time", "2024-05-01T12:00:00.123Z"),
    ("date-time", "2024-05-01T12:00:00.5Z"),
    ("date-time", "2024-05-01T12:00:00.123456Z"),
    ("date-time", "2024-05-01T12:00:00+02:00"),
    ("date-time", "2024-05-01T12:00:00"),
    ("date", "2024-02-29"),
    ("date", "2024-02-30"),
    ("time", "12:00:00Z"),
    ("time", "12:00:00+02:00"),
    ("time", "12:00:00"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
    ("uri", "https://example.org/a?b=c"),
    ("uri", "mailto:someone@example.org"),
    ("email", "some.one@example.org"),
]
UNKNOWN = ["ipv4", "ipv6", "hostname", "duration", "json-pointer", "uri-reference", "regex", "iri"]
tokens = LLTokenizer("byte")


def schema(kind):
    return {"type": "string", "format": kind}


def by_rule(kind, text):
    return jsonschema_rs.validator_for(schema(kind), validate_formats=True).is_valid(text)


def by_outlines(kind, text):
    pattern = build_regex_from_schema(json.dumps(schema(kind)))
    return re.fullmatch(pattern, json.dumps(text)) is not None


def llguidance(kind):
    return LLMatcher(tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema(kind))))


def by_llguidance(kind, text):
    matcher, ids = llguidance(kind), tokens.tokenize_str(json.dumps(text))
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def raises(kind):
    try:
        build_regex_from_schema(json.dumps(schema(kind)))
    except ValueError:
        return True
    return False


print(*(f"{name} {version(name)}" for name in ("outlines-core", "llguidance", "jsonschema-rs")), sep=", ")
seen = {}
for kind, text in CASES:
    seen[text] = by_rule(kind, text), by_outlines(kind, text), by_llguidance(kind, text)
    print(f"{kind:10} {text:37} valid {seen[text][0]!s:6} outlines-core {seen[text][1]!s:6}", end="")
    print("llguidance", seen[text][2])
raised = [kind for kind in UNKNOWN if raises(kind)]
refused = [kind for kind in UNKNOWN if llguidance(kind).is_error()]
print("outlines-core raises:", *raised)
print("llguidance refuses:", *refused)
assert all(valid is written for valid, _, written in seen.values())
assert {text for text, (valid, written, _) in seen.items() if valid and not written} == {
    "2024-05-01T12:00:00.5Z",
    "2024-05-01T12:00:00.123456Z",
    "2024-05-01T12:00:00+02:00",
    "12:00:00+02:00",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "mailto:someone@example.org",
}
assert {text for text, (valid, written, _) in seen.items() if written and not valid} == {
    "2024-05-01T12:00:00",
    "2024-02-30",
    "12:00:00",
}
assert raised == UNKNOWN
assert refused == UNKNOWN[4:]
PY
