#!/usr/bin/env bash
# Tokens that a tokenizer.json adds to its vocabulary, and the flags that say how text finds them
# (`special`, `lstrip`, `rstrip`, `single_word`), in tokenizers and five faster readers of that file.
#
# Seen with tokenizers 0.23.3, fastokens 0.3.5, tokie 0.1.4, kitoken 0.11.1, gigatoken 0.10.0,
# iree-tokenizer 0.3.0:
#   iree spells an added token in letters that is neither `special` nor `normalized` (as Qwen3's
#   <think> is), passes over `rstrip`, and of two tokens with `lstrip` and a space between them gives
#   one. kitoken passes over `lstrip` and `rstrip`, and of two added tokens that begin alike takes the
#   shorter. gigatoken cuts an added word with `single_word` out of longer ones. tokie knows these
#   flags, but drops a normalizer and a split that it does not know; gigatoken refuses the file then.
#   fastokens gives the tokens of tokenizers in all of these. Nobody warns.
# So tokens counted or written ahead of a job by a faster reader are not those of the model, in the
# very places where a turn, a thought or a tool call begins and ends.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tokenizers==0.23.3 fastokens==0.3.5 tokie==0.1.4 kitoken==0.11.1 \
  gigatoken==0.10.0 iree-tokenizer==0.3.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY'
from importlib.metadata import version

import fastokens
import gigatoken
import tokie
from iree.tokenizer import Tokenizer as Iree
from kitoken import Kitoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

MERGES = [("l", "o"), ("Ġ", "lo"), ("lo", "g"), ("t", "h")]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {token: n for n, token in enumerate([*LETTERS, *(a + b for a, b in MERGES)])}


def file(*added, normalizer=None, split=None):
    """A tokenizer.json of byte-level BPE."""
    made = Tokenizer(models.BPE(vocab=VOCABULARY, merges=MERGES))
    made.normalizer = normalizer
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_]) if split else bytes_
    made.decoder = decoders.ByteLevel()
    made.add_tokens(list(added))
    return made.to_str()


def by_tokie(text):
    open("tokenizer.json", "w").write(text)
    read = tokie.Tokenizer.from_json("tokenizer.json")
    return lambda prompt: read.encode(prompt, add_special_tokens=False).ids


READERS = {
    "tokenizers": lambda text: lambda prompt: Tokenizer.from_str(text).encode(prompt).ids,
    "fastokens": lambda text: fastokens.Tokenizer.from_json_str(text).encode,
    "tokie": by_tokie,
    "kitoken": lambda text: lambda prompt: Kitoken.from_tokenizers(text.encode()).encode(prompt, True),
    "gigatoken": lambda text: gigatoken.Tokenizer.from_json(text).encode,
    "iree": lambda text: Iree.from_str(text).encode,
}
by_pairs = pre_tokenizers.Split(Regex("[a-z]{2}"), "isolated")
CASES = {
    "not special": (file(AddedToken("<think>", normalized=False)), "lo<think>lo"),
    "special": (file(AddedToken("<think>", special=True, normalized=False)), "lo<think>lo"),
    "rstrip": (file(AddedToken("<end>", special=True, rstrip=True)), "lo<end>\nlo"),
    "lstrip": (file(AddedToken("<gap>", special=True, lstrip=True)), "lo <gap> <gap> lo"),
    "single_word": (file(AddedToken("lo", single_word=True, normalized=False)), "log"),
    "longest": (file(AddedToken("<a"), AddedToken("<a>")), "<a>"),
    "normalizer": (file(normalizer=normalizers.Replace("0", "o")), "l0g"),
    "split": (file(split=by_pairs), "log"),
}
names = ("tokenizers", "fastokens", "tokie", "kitoken", "gigatoken", "iree-tokenizer")
print(*(f"{name} {version(name)}" for name in names), sep=", ")
seen = {}
for case, (text, prompt) in CASES.items():
    pieces = Tokenizer.from_str(text).id_to_token
    seen[case] = {}
    for name, reader in READERS.items():
        try:
            ids = reader(text)(prompt)
            answer = " ".join(pieces(int(token)) for token in getattr(ids, "ids", ids))
        except (ValueError, RuntimeError, TypeError) as error:
            answer = f"refuses ({type(error).__name__})"
        seen[case][name] = answer
    print(f"{case}: {prompt!r} is {seen[case]['tokenizers']}")
    for name, answer in seen[case].items():
        if answer != seen[case]["tokenizers"]:
            print(f"    {name:10} {answer}")
assert {case: answers["tokenizers"] for case, answers in seen.items()} == {
    "not special": "lo <think> lo",
    "special": "lo <think> lo",
    "rstrip": "lo <end> lo",
    "lstrip": "lo <gap> <gap> Ġlo",
    "single_word": "log",
    "longest": "<a>",
    "normalizer": "log",
    "split": "lo g",
}
others = {
    case: {name: said for name, said in answers.items() if said != answers["tokenizers"]}
    for case, answers in seen.items()
}
assert others == {
    "not special": {"iree": "lo < th i n k > lo"},
    "special": {},
    "rstrip": {"kitoken": "lo <end> Ċ lo", "iree": "lo <end> Ċ lo"},
    "lstrip": {"kitoken": "lo Ġ <gap> Ġ <gap> Ġlo", "iree": "lo <gap> Ġlo"},
    "single_word": {"gigatoken": "lo g"},
    "longest": {"kitoken": "<a >"},
    "normalizer": {"tokie": "l 0 g", "gigatoken": "refuses (RuntimeError)"},
    "split": {"tokie": "log", "gigatoken": "refuses (RuntimeError)"},
}
PY
