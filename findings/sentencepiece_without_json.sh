#!/usr/bin/env bash
# A model folder whose tokenizer is a SentencePiece model alone (unigram with byte fallback, and no
# tokenizer.json), read by the class that tokenizer_config.json names.
#
# Seen with transformers 4.57.6 and 5.24.0, kitoken 0.11.1, beside sentencepiece 0.2.3:
#   4.57.6 with use_fast=False gives SentencePiece's own tokens, as LlamaTokenizer and as T5Tokenizer.
#   5.24.0 takes the argument without a word, and no longer knows that way. As LlamaTokenizer it runs
#   the unigram model as BPE, which spells every word in letters, and does not normalise: "fix"
#   with a ligature is three bytes and an x. As T5Tokenizer it has no byte fallback: letters
#   that are no tokens become one token, `</s>`, since 2 is taken for the unknown one's id. With no
#   class named it is right.
#   kitoken, given the same file, writes the bytes of each letter in reverse.
# So prompts are other tokens than those that the model was trained on, with the end of the text in
# their midst, from an upgrade alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() { "$work/venv/bin/pip" install -q "$@"; }
pip sentencepiece==0.2.3 protobuf==7.36.2 kitoken==0.11.1 transformers==4.57.6
cat > "$work/train.py" <<'PY'
import random

import sentencepiece

draw = random.Random(1)
WORDS = "refund order late parcel hello please return money delay box broken fix item card pay"
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(" ".join(draw.choices(WORDS.split(), k=8)) for _ in range(2000)),
    model_prefix="tokenizer", model_type="unigram", byte_fallback=True, vocab_size=350,
    hard_vocab_limit=False, num_threads=1, minloglevel=5,
)
PY
cat > "$work/look.py" <<'PY'
import json
import shutil
import sys
from pathlib import Path

import sentencepiece
import transformers
from kitoken import Kitoken

TEXTS = ["refund order", "\ufb01x", "\u65e5"]
own = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model")


def show(name, ids):
    print(f"  {name:16}", *("|".join(map(own.id_to_piece, one)) for one in ids), sep="  ")
    return ids


def by_transformers(kind, file):
    folder = Path(kind or "unnamed")
    folder.mkdir(exist_ok=True)
    shutil.copy("tokenizer.model", folder / file)
    said = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    said |= {"tokenizer_class": kind} if kind else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    made = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
    return [made.encode(text, add_special_tokens=False) for text in TEXTS]


print("transformers", transformers.__version__, "sentencepiece", sentencepiece.__version__)
right = show("sentencepiece", [own.encode(text) for text in TEXTS])
llama = show("LlamaTokenizer", by_transformers("LlamaTokenizer", "tokenizer.model"))
t5 = show("T5Tokenizer", by_transformers("T5Tokenizer", "spiece.model"))
unnamed = show("no class named", by_transformers(None, "tokenizer.model"))
assert unnamed == right
if sys.argv[1] == "same":
    assert llama == t5 == right
else:
    letters = [own.piece_to_id(letter) for letter in "\u2581refund\u2581order"]
    fallback = [own.piece_to_id(f"<0x{byte:02X}>") for byte in "\ufb01".encode()]
    assert len(right[0]) == 2 and llama[0] == letters
    assert llama[1][1:4] == fallback and right[1] == [own.piece_to_id("\u2581fix")]
    assert llama[2] == right[2]
    assert t5[:2] == right[:2] and t5[2] == [right[2][0], own.eos_id()]
rust = Kitoken.from_sentencepiece(Path("tokenizer.model").read_bytes())
kitoken = show("kitoken", [list(rust.encode(text, False)) for text in TEXTS])
assert kitoken[:2] == right[:2]
assert kitoken[2] == [right[2][0], *reversed(right[2][1:])] != right[2]
PY
cd "$work"
venv/bin/python train.py
HF_HOME=$work/hf venv/bin/python look.py same 2>/dev/null
pip transformers==5.24.0
HF_HOME=$work/hf venv/bin/python look.py other 2>/dev/null
