#!/usr/bin/env bash
# The vectors that one folder of static embeddings (a vector for each token, and their mean for a text, as the small
# models have that data sets are cleaned and sorted with) gives by model2vec, which wrote it, and by
# sentence-transformers: texts with words that it does not know, texts of nothing else, and long ones.
#
# Seen with model2vec 0.10.0, sentence-transformers 6.2.0, tokenizers 0.23.3:
#   model2vec leaves unknown tokens out of the mean; sentence-transformers counts the unknown token's vector for each of
#   them: with one of three words unknown the two vectors are off by half of their length and more. Texts of unknown
#   words alone, as all Chinese is to an English model, are zeros for model2vec, like an empty one, and all one vector
#   for sentence-transformers: any two of them have a similarity of 1. Of known words alone they agree.
#   Both end at 512 tokens, which is written into the folder's tokenizer. model2vec also cuts the text at 512 times the
#   median token's letters, spaces among them: of words as long as the median, four letters, 409 count, and of six 292
#   and the beginning of the next, where that is a token itself. sentence-transformers has 512 of both.
#   `max_length=None` reads all of it. Nobody warns.
# So documents that one library finds alike are not by the other, from the same files, and the sorting of a data set
# drops all texts of another script but one, or gives them no place at all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q model2vec==0.10.0 sentence-transformers==6.2.0 transformers==5.24.0 \
  tokenizers==0.23.3 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import numpy as np
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers

SHORT = [f"w{place:03}" for place in range(300)]  # four letters, which is the median
LONG = [f"long{place:02}" for place in range(100)]
PLACE = {word: place for place, word in enumerate(["[UNK]", *SHORT, *LONG, "long"])}
tokenizer = Tokenizer(models.WordLevel(PLACE, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
vectors = np.random.default_rng(0).normal(size=(len(PLACE), 64)).astype(np.float32)
StaticModel(vectors=vectors, tokenizer=tokenizer, normalize=True).save_pretrained("folder")
first, second = StaticModel.from_pretrained("folder"), SentenceTransformer("folder", device="cpu")


def mean(words):
    found = vectors[[PLACE[word] for word in words]].mean(0)
    return found / np.linalg.norm(found)


def both(text):
    return first.encode([text])[0], second.encode([text])[0]


def same(one, other):
    return float(np.abs(one - other).max()) < 1e-5


print(*(f"{name} {version(name)}" for name in ("model2vec", "sentence-transformers", "tokenizers")), sep=", ")
known = both("w001 w002 w003")
assert same(known[0], mean(SHORT[1:4])) and same(*known)
one, other = both("w001 zebra w002")
off = float(np.linalg.norm(one - other))
print(f"one word of three is unknown: off by {off:.2f} of a length of 1")
assert same(one, mean(SHORT[1:3])) and same(other, mean(["w001", "[UNK]", "w002"])) and off > 0.5
texts = ["今日は雨です", "价格是多少？", "zebra giraffe", "Невский проспект"]
for name, model in (("model2vec", first), ("sentence-transformers", second)):
    found = model.encode(texts)
    alike = found @ found.T
    print(f"{name}: {len(texts)} texts of unknown words, lengths {np.linalg.norm(found, axis=1).round(3).tolist()},")
    print(f"    similarities from {alike.min():.3f} to {alike.max():.3f}")
    assert np.allclose(alike, 0.0 if model is first else 1.0, atol=1e-5)

for name, words, counted in (("four", SHORT, [409]), ("six", LONG, [-292])):
    text = [words[place % len(words)] for place in range(2000)]
    one, other = both(" ".join(text))
    lengths = [count for count in range(1, 2000) if same(other, mean(text[:count]))]
    ends = {count: text[:count] for count in range(1, 2000)} | {-count: [*text[:count], "long"] for count in range(1, 2000)}
    found = [count for count, kept in ends.items() if same(one, mean(kept))]
    print(f"2,000 words of {name} letters: {lengths} count for sentence-transformers, {found} for model2vec "
          "(below 0: and a token that the cut made)")  # fmt: skip
    assert same(first.encode([" ".join(text)], max_length=None)[0], mean(text))
    assert lengths == [512] and found == counted
assert first.median_token_length == 4
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { tail -n 40 said; exit 1; }
