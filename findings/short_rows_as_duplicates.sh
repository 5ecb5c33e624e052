#!/usr/bin/env bash
# Ten answers, two of them equal: labels, short sentences, sentences in Chinese and longer ones, freed of duplicates by
# two libraries that cut the texts into runs of words themselves, in runs of five and of one.
#
# Seen with text-dedup 0.4.0, gaoya 0.2.2, datasets 5.2.0, beside datasketch 2.0.0:
#   A text of less than five words has no run of five. For gaoya's index all texts without one are equal: "no", "The
#   answer is 4." and every Chinese sentence, which is one word to it, are duplicates of "yes", with a similarity
#   of 1 if it is asked. text-dedup takes what it counts as less than five words out before it looks, unless told
#   otherwise, the labels and both Chinese sentences, and then says "Before 6, After 5" of ten rows. In runs of one word, and
#   with a min_length of 1, both keep nine of the ten, as datasketch does with sets of words. No warning.
# So a data set that was cleaned has none of its short answers left, or one of them for all, and no Chinese, and the
# log's two numbers tell of a single duplicate.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q text-dedup==0.4.0 gaoya==0.2.2 datasketch==2.0.0 datasets==5.2.0 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
import json
import re
import subprocess
import sys
from importlib.metadata import version

import datasets
from datasketch import MinHash, MinHashLSH
from gaoya.minhash import MinHashStringIndex

ROWS = [
    "yes",
    "no",
    "The answer is 4.",
    "The result was 5!",
    "东京是日本的首都，大阪在西边。",
    "京都有很多古老的寺庙，春天樱花盛开。",
    "the cat sat on the mat and slept all day long",
    "the cat sat on the mat and slept all day long",
    "a dog ran through the park and barked at the moon",
    "one two three four five",
]
NINE = [row for row in range(len(ROWS)) if row != 7]


def by_gaoya(run):
    how = {"hash_size": 32, "num_bands": 20, "band_size": 5, "jaccard_threshold": 0.75}
    index = MinHashStringIndex(**how, analyzer="word", lowercase=True, ngram_range=(run, run))
    kept = []
    for row, text in enumerate(ROWS):
        if not index.query(text):
            kept.append(row)
        index.insert_document(row, text)
    alike = dict(index.query(ROWS[0], return_similarity=True))
    return kept, f"alike to {ROWS[0]!r}: {len(alike)}, by {min(alike.values())} at least"


def by_text_dedup(*told):
    command = [sys.executable, "-m", "text_dedup.minhash", "--path", "json", "--data_files", "rows.jsonl"]
    command += ["--split", "train", "--column", "text", "--output", "kept", "--cache_dir", "cache"]
    done = subprocess.run([*command, "--num_proc", "1", *told], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    said = re.findall(r"(Before|After)\s*: (\d+)", done.stdout + done.stderr)
    return datasets.load_from_disk("kept")["row"][:], ", ".join(" ".join(pair) for pair in said)


def by_datasketch():
    index, kept = MinHashLSH(threshold=0.75, num_perm=128), []
    for row, text in enumerate(ROWS):
        hashed = MinHash(num_perm=128)
        hashed.update_batch([word.encode() for word in text.split()])
        if not index.query(hashed):
            kept.append(row)
        index.insert(row, hashed)
    return kept, ""


with open("rows.jsonl", "w") as file:
    file.writelines(json.dumps({"row": row, "text": text}) + "\n" for row, text in enumerate(ROWS))
print(*(f"{name} {version(name)}" for name in ("text-dedup", "gaoya", "datasketch", "datasets")), sep=", ")
seen = {
    "gaoya, runs of five": by_gaoya(5),
    "gaoya, runs of one": by_gaoya(1),
    "text-dedup": by_text_dedup(),
    "text-dedup, runs of one": by_text_dedup("--ngram", "1", "--min_length", "1"),
    "datasketch, sets of words": by_datasketch(),
}
for way, (kept, said) in seen.items():
    print(f"    {way:26} keeps {len(kept)} of {len(ROWS)}: {kept} {said}")
assert seen["gaoya, runs of five"][0] == [0, 6, 8, 9]
assert seen["text-dedup"][1] == "Before 6, After 5" and not {0, 1, 4, 5} & set(seen["text-dedup"][0])
for way in ("gaoya, runs of one", "text-dedup, runs of one", "datasketch, sets of words"):
    assert len(seen[way][0]) == 9 and {*NINE} - {6} <= {*seen[way][0]}, way
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
