#!/usr/bin/env bash
# A JSON Schema that leaves one text, `{"label":"refund"}`, and a tokenizer that can spell its
# beginning in two ways: as one token `{"`, or as `{` and `"`.
#
# Seen with llguidance 1.9.1, tokenizers 0.23.3:
#   The mask of allowed tokens holds `{"` alone, since forced text is to be spelled as the tokenizer
#   would; `validate_tokens` and `consume_tokens` accept `{` as well, and go on from there to the
#   end. So a token that the mask excludes is no proof that the grammar does: whoever checks ids
#   that a model has already written (a resumed row, a drafted token) by the mask refuses what the
#   grammar accepts, and whoever drafts by `validate_tokens` may write what sampling never would.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q llguidance==1.9.1 tokenizers==0.23.3 numpy
"$work/venv/bin/python" - <<'PY'
import json

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocab = {token: number for number, token in enumerate([*letters, '{"', "<end>"])}
tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("{", '"')]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens(["<end>"])

schema = {
    "type": "object",
    "properties": {"label": {"enum": ["refund"]}},
    "required": ["label"],
    "additionalProperties": False,
}
grammar = LLMatcher.grammar_from_json_schema(
    json.dumps(schema), defaults={"whitespace_flexible": False}
)
vocabulary = LLTokenizer(tokenizer.to_str(), eos_token=vocab["<end>"])


def allowed():
    bits = np.frombuffer(LLMatcher(vocabulary, grammar).compute_bitmask(), dtype=np.uint8)
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist())


text = '{"label":"refund"}'
short = [vocab[letter] for letter in text]  # a token a letter
mask, split, joined = allowed(), vocab["{"], vocab['{"']
by_letters = LLMatcher(vocabulary, grammar)
print("the mask allows", sorted(tokenizer.id_to_token(token) for token in mask))
print("validate_tokens accepts", LLMatcher(vocabulary, grammar).validate_tokens(short), "of",
      len(short), "letters")
print("consume_tokens accepts them:", by_letters.consume_tokens(short), by_letters.is_accepting())
assert mask == {joined}
assert split not in mask
assert LLMatcher(vocabulary, grammar).validate_tokens(short) == len(short)
assert by_letters.is_accepting()
PY
