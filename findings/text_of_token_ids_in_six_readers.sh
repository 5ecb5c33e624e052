#!/usr/bin/env bash
# Token ids back to text by a tokenizer.json with byte fallback, of the kind of Llama 2's and Mistral's
# (`▁` for a space, tokens like `<0x0A>` for bytes, one space stripped at the beginning): by tokenizers,
# by its DecodeStream, one id after another, and by five faster readers of that file.
#
# Seen with tokenizers 0.23.3, fastokens 0.3.5, kitoken 0.11.1, gigatoken 0.10.0, iree-tokenizer 0.3.0,
# tokie 0.1.4:
#   iree strips the space of every token instead of the text's first: "a b" is "ab", and an indented
#   line loses spaces. tokie does not know the file's decoder: a space is `▁`, a line break <0x0A>. It
#   and gigatoken write special tokens into the text. A row that is cut inside a letter of several
#   bytes ends in U+FFFD; by DecodeStream, which cannot be told that a row has ended, it ends before
#   that, and after a stray byte without the whole letter behind it. That letter is four U+FFFD for
#   tokenizers and fastokens; kitoken, gigatoken and iree read it. fastokens agrees with tokenizers in
#   all of these. Nobody warns.
# So a completion written by a faster reader is other text than the model's, of one word where it wrote
# two, and a stream's rows are shorter than the same rows decoded at once.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tokenizers==0.23.3 fastokens==0.3.5 kitoken==0.11.1 \
  gigatoken==0.10.0 iree-tokenizer==0.3.0 tokie==0.1.4
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
from importlib.metadata import version

import fastokens
import gigatoken
import tokie
from iree.tokenizer import Tokenizer as Iree
from kitoken import Kitoken
from tokenizers import Tokenizer, decoders, models, normalizers

FILE, SPECIAL = "tokenizer.json", ["<unk>", "<s>", "</s>"]
pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁b", "▁▁"]
made = Tokenizer(
    models.BPE(
        vocab={piece: token for token, piece in enumerate(pieces)},
        merges=[("▁", "a"), ("▁", "b"), ("▁", "▁")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
)
made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
made.decoder = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)
made.add_special_tokens(SPECIAL)
made.save(FILE)
content = made.to_str()


def streamed(ids):
    stream = decoders.DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(made, token) or "" for token in ids)


quick, bare = fastokens.Tokenizer.from_json_str(content), Kitoken.from_tokenizers(content.encode())
READERS = {
    "tokenizers": made.decode,
    "DecodeStream": streamed,
    "fastokens": lambda ids: quick.decode(ids, skip_special_tokens=True),
    "kitoken": lambda ids: bare.decode(ids, False).decode(errors="replace"),
    "gigatoken": lambda ids: bytes(gigatoken.Tokenizer.from_json(content).decode(ids)).decode(),
    "iree-tokenizer": lambda ids: Iree.from_str(content).decode(ids, skip_special_tokens=True),
    "tokie": tokie.Tokenizer.from_json(FILE).decode,
}
EURO = ["<0xE2>", "<0x82>", "<0xAC>"]
CASES = {
    "words": ["▁a", "▁b"],
    "indented": ["▁a", "<0x0A>", "▁▁", "▁b"],
    "special": ["▁a", "</s>", "▁b"],
    "cut": ["▁a", *EURO[:2]],
    "stray byte": ["▁a", EURO[0], *EURO],
}
print(*(f"{name} {version(name)}" for name in READERS if name != "DecodeStream"), sep=", ")
seen = {}
for case, tokens in CASES.items():
    ids = [made.token_to_id(token) for token in tokens]
    seen[case] = {name: read(ids) for name, read in READERS.items()}
    print(f"{case:10}", *(f"{name}: {text!r}" for name, text in seen[case].items()), sep="\n    ")
BAD = "\N{REPLACEMENT CHARACTER}"
right = {
    "words": "a b",
    "indented": "a\n   b",
    "special": "a b",
    "cut": "a" + 2 * BAD,
    "stray byte": "a" + 4 * BAD,
}
assert {case: texts["tokenizers"] for case, texts in seen.items()} == right
others = {
    case: {name: text for name, text in texts.items() if text != right[case]}
    for case, texts in seen.items()
}
read = f"a{BAD}€"
assert others == {
    "words": {"iree-tokenizer": "ab", "tokie": "▁a▁b"},
    "indented": {"iree-tokenizer": "a\n b", "tokie": "▁a<0x0A>▁▁▁b"},
    "special": {"gigatoken": "a</s> b", "iree-tokenizer": "ab", "tokie": "▁a</s>▁b"},
    "cut": {
        "DecodeStream": "a",
        "kitoken": "a" + BAD,
        "gigatoken": "a" + BAD,
        "tokie": "▁a<0xE2><0x82>",
    },
    "stray byte": {
        "DecodeStream": "a",
        "kitoken": read,
        "gigatoken": read,
        "iree-tokenizer": read,
        "tokie": "▁a<0xE2><0xE2><0x82><0xAC>",
    },
}
PY
