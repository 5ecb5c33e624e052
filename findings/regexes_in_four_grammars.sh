#!/usr/bin/env bash
# Regular expressions that hold a model to a form without JSON (a line, a word, a number, a choice): what
# four libraries let it write, and what Python's `re` says of that afterwards.
#
# Seen with xgrammar 0.2.9, outlines-core 0.2.14, llguidance 1.9.1, lm-format-enforcer 0.11.3:
#   xgrammar's `.` takes a line break, so that ".+" is no single line; its letters are ASCII's, so that
#   under `\w+` no "über" can be written, and other letters and digits are `\W` and `\D`; an escape that
#   it does not know is the letter behind it, so that `yes\Z` asks for "yesZ" and refuses "yes";
#   `$` amid an expression, where nothing can match, it passes over. outlines-core stops at the shortest
#   text under a lazy `.*?`, which is none. lm-format-enforcer writes ASCII alone, under `.+` as well, and
#   no line break under `[^,]`. llguidance agrees with `re` in all that it takes. It, outlines-core and
#   lm-format-enforcer raise on `\Z`, `\R` and that `$`; xgrammar says nothing.
# So names lose their letters, lines break, and a label ends in a Z, in rows that are all complete.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 xgrammar==0.2.9 outlines-core==0.2.14 llguidance==1.9.1 \
  lm-format-enforcer==0.11.3
cd "$work"
HF_HOME=$work/hf venv/bin/python -W ignore - <<'PY' 2>/dev/null
import re
from importlib.metadata import version

import xgrammar
from llguidance import LLMatcher, LLTokenizer
from lmformatenforcer import RegexParser
from outlines_core import Index, Vocabulary

CASES = [
    (".+", "a\nb"),
    (".+", "über"),
    (r"\w+", "über"),
    (r"\W", "ü"),
    (r"\d+", "٣"),
    (r"\D", "٣"),
    ("[^,]+", "a\nb"),
    (".*?", "yes"),
    ("yes|no$", "no"),
    (r"yes\Z", "yes"),
    (r"yes\Z", "yesZ"),
    (r"a\Rb", "aRb"),
    ("a$b", "ab"),
]
END = 256
raw = [bytes([byte]) for byte in range(END)]
compiler = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo([*raw, b"</s>"], xgrammar.VocabType.RAW, stop_token_ids=[END])
)
tokens, vocabulary = LLTokenizer("byte"), Vocabulary(END, {"a": [97]})
for byte in raw:
    vocabulary.insert(byte, byte[0])


def by_re(pattern, text):
    return re.fullmatch(pattern, text) is not None


def by_xgrammar(pattern, text):
    matcher = xgrammar.GrammarMatcher(compiler.compile_regex(pattern))
    return matcher.accept_string(text) and matcher.accept_token(END)


def by_outlines(pattern, text):
    index = Index(pattern, vocabulary)
    state = index.get_initial_state()
    for byte in text.encode():
        if byte not in (index.get_allowed_tokens(state) or []):
            return False
        state = index.get_next_state(state, byte)
    return index.is_final_state(state)


def by_llguidance(pattern, text):
    matcher = LLMatcher(tokens, LLMatcher.grammar_from_regex(pattern))
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    ids = tokens.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def by_enforcer(pattern, text):
    state = RegexParser(pattern)
    for letter in text:
        if letter not in state.get_allowed_characters():
            return False
        state = state.add_character(letter)
    return state.can_end()


WAYS = {
    "re": by_re,
    "xgrammar": by_xgrammar,
    "outlines-core": by_outlines,
    "llguidance": by_llguidance,
    "lm-format-enforcer": by_enforcer,
}


def told(way, pattern, text):
    try:
        return "yes" if way(pattern, text) else "no"
    except Exception:
        return "raises"


print(*(f"{name} {version(name)}" for name in WAYS if name != "re"), sep=", ")
seen = {case: [told(way, *case) for way in WAYS.values()] for case in CASES}
for (pattern, text), found in seen.items():
    print(f"{pattern:8} {text!r:8}", *(f"{name}: {said}" for name, said in zip(WAYS, found)))
assert seen == {
    (".+", "a\nb"): ["no", "yes", "no", "no", "no"],
    (".+", "über"): ["yes", "yes", "yes", "yes", "no"],
    (r"\w+", "über"): ["yes", "no", "yes", "yes", "no"],
    (r"\W", "ü"): ["no", "yes", "no", "no", "no"],
    (r"\d+", "٣"): ["yes", "no", "yes", "yes", "no"],
    (r"\D", "٣"): ["no", "yes", "no", "no", "no"],
    ("[^,]+", "a\nb"): ["yes", "yes", "yes", "yes", "no"],
    (".*?", "yes"): ["yes", "yes", "no", "yes", "yes"],
    ("yes|no$", "no"): ["yes", "yes", "yes", "yes", "raises"],
    (r"yes\Z", "yes"): ["yes", "no", "raises", "raises", "raises"],
    (r"yes\Z", "yesZ"): ["no", "yes", "raises", "raises", "raises"],
    (r"a\Rb", "aRb"): ["raises", "yes", "raises", "raises", "raises"],
    ("a$b", "ab"): ["no", "yes", "raises", "raises", "raises"],
}
PY
