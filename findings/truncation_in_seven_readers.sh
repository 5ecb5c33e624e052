#!/usr/bin/env bash
# A tokenizer.json that says `truncation` (to 4 tokens) and `padding` (to 6), as the library writes it
# for a tokenizer whose `enable_truncation` and `enable_padding` were called before `save`, and texts
# of seven letters and of two, a token each.
#
# Seen with tokenizers 0.23.3, transformers 5.24.0, fastokens 0.3.5, kitoken 0.11.1, tokie 0.1.4,
# gigatoken 0.10.0, iree-tokenizer 0.3.0:
#   tokenizers and fastokens do both: four letters and two of padding, whatever the text is. kitoken
#   cuts to 4, and pads to 4 as well, not to 6. tokie, gigatoken and iree do neither. transformers
#   does neither, unless it is asked; asked for `truncation=True` alone it cuts nothing, since it
#   forgets the file's own bound. After such a call its backend has forgotten both as well, so that
#   what the same object gives depends on whether it was called before. Nobody says a word.
# So token counts made ahead of a job end at the file's bound, or ids of prompts are cut and padded
# that the model would have had whole.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tokenizers==0.23.3 transformers==5.24.0 fastokens==0.3.5 \
  kitoken==0.11.1 tokie==0.1.4 gigatoken==0.10.0 iree-tokenizer==0.3.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
from importlib.metadata import version

import fastokens
import gigatoken
import tokie
from iree.tokenizer import Tokenizer as Iree
from kitoken import Kitoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FILE, LONG, SHORT = "tokenizer.json", "abcdefg", "ab"
vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<p>"]
made = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(vocabulary)}, merges=[]))
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
made.add_special_tokens(["<p>"])
made.enable_truncation(4)
made.enable_padding(pad_id=made.token_to_id("<p>"), pad_token="<p>", length=6)
made.save(FILE)
content = made.to_str()
READERS = {
    "tokenizers": Tokenizer.from_file(FILE).encode,
    "fastokens": fastokens.Tokenizer.from_json_str(content).encode,
    "kitoken": lambda text: Kitoken.from_tokenizers(content.encode()).encode(text, True),
    "tokie": tokie.Tokenizer.from_json(FILE).encode,
    "gigatoken": gigatoken.Tokenizer.from_json(content).encode,
    "iree-tokenizer": Iree.from_str(content).encode,
    "transformers": PreTrainedTokenizerFast(tokenizer_file=FILE).encode,
}


def tokens(found):
    ids = [int(token) for token in getattr(found, "ids", found)]
    return "".join(made.id_to_token(token) for token in ids).replace("<p>", "_")


print(*(f"{name} {version(name)}" for name in READERS), sep=", ")
seen = {name: [tokens(read(text)) for text in (LONG, SHORT)] for name, read in READERS.items()}
for name, found in seen.items():
    print(f"{name:15}", *found)
whole = [LONG, SHORT]
assert seen == dict.fromkeys(READERS, whole) | {
    "tokenizers": ["abcd__", "ab____"],
    "fastokens": ["abcd__", "ab____"],
    "kitoken": ["abcd", "ab__"],
}
wrapped = PreTrainedTokenizerFast(tokenizer_file=FILE)
before = tokens(wrapped.backend_tokenizer.encode(LONG))
asked = tokens(wrapped.encode(LONG, truncation=True))
after = tokens(wrapped.backend_tokenizer.encode(LONG))
print(f"transformers: backend {before}, asked for truncation=True {asked}, backend then {after}")
assert (before, asked, after) == ("abcd__", LONG, LONG)
PY
