#!/usr/bin/env bash
# The embeddings of 400 documents made int8 by sentence-transformers' `quantize_embeddings`, at once, and in
# two shards of 200, as two workers do; and 200 questions searched among them, each near one document.
#
# Seen with sentence-transformers 6.2.0, torch 2.13.0:
#   The range of each dimension is that of the rows of the call. One vector is other integers in another
#   shard, 60 of 255 steps and more apart in some dimension, and nothing says so: it warns of fewer than 100
#   rows alone. Where the shards are of two kinds of text (two means here), 137 of the 200 questions find
#   their document among the shards, and all of them among the same vectors made int8 at once. One row with
#   50 in one dimension, as a broken one has, leaves all others six integers there; one NaN
#   makes that dimension one integer for all rows, with numpy's warning of a cast alone. With `ranges` of the
#   whole set the shards are as the whole.
# So vectors made by several workers, or on several days, are put in one index and compared, and are not of
# one scale: a third of the answers are found under the wrong document.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0
cd "$work"
cat > look.py <<'PY'
import logging
import warnings
from importlib.metadata import version

import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings

WIDTH = 16
said = []
catch = logging.Handler()
catch.emit = lambda record: said.append(record.getMessage())
logging.getLogger("sentence_transformers.util.quantization").addHandler(catch)
draw = np.random.default_rng(0)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


means = np.repeat(draw.normal(size=(2, WIDTH)), 200, axis=0)
documents = unit(draw.normal(size=(400, WIDTH)) + 1.5 * means)
questions = unit(documents[:200] + 0.05 * draw.normal(size=(200, WIDTH)))


def int8(rows, **more):
    return quantize_embeddings(rows, "int8", **more).astype(np.int32)


def found(ours, theirs):
    """Of how many questions the nearest document (cosine) is their own."""
    return int(((unit(ours) @ unit(theirs).T).argmax(1) == np.arange(len(ours))).sum())


print(f"sentence-transformers {version('sentence-transformers')}")
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    at_once = int8(np.concatenate([documents, questions]))
    shards = np.concatenate([int8(documents[:200]), int8(documents[200:])])
    ranges = np.stack([documents.min(0), documents.max(0)])
    by_ranges = np.concatenate([int8(half, ranges=ranges) for half in (documents[:200], documents[200:])])
    right = {
        "float32": found(questions, documents),
        "int8 at once": found(at_once[400:], at_once[:400]),
        "int8 shard by shard": found(at_once[400:], shards),
        "int8 shard by shard, with ranges": found(int8(questions, ranges=ranges), by_ranges),
    }
    for how, number in right.items():
        print(f"    {how:32} {number} of 200 questions find their document")
    one = documents[:1]
    twice = [int8(np.concatenate([shard, one]))[-1] for shard in (documents[:200], documents[200:])]
    print("    one vector in the first shard ", twice[0].tolist())
    print("    and in the second             ", twice[1].tolist())
    apart = int(np.abs(twice[0] - twice[1]).max())
    assert not said and not warned, (said, warned)
    assert apart >= 60 and (int8(documents, ranges=ranges) == by_ranges).all()
    int8(documents[:50])
    assert len(said) == 1 and "50 embeddings" in said[0], said
    del said[:], warned[:]
    wide = documents.copy()
    wide[7, 3] = 50.0
    left = sorted(set(int8(wide)[np.arange(400) != 7, 3].tolist()))
    print("    a dimension beside one value of 50 is one of", left)
    assert len(left) <= 6 and not said and not warned
    wide[7, 3] = np.nan
    left = sorted(set(int8(wide)[:, 3].tolist()))
    print("    a dimension with one NaN is", left, "and said is", [str(one.message) for one in warned] + said)
    assert len(left) == 1
assert right["float32"] == right["int8 at once"] == right["int8 shard by shard, with ranges"] == 200
assert 100 < right["int8 shard by shard"] < 160
PY
OMP_NUM_THREADS=1 HF_HOME=$work/hf venv/bin/python look.py 2>said || { cat said; exit 1; }
