#!/usr/bin/env bash
# The embeddings of 2,000 documents, one of which is NaN, as that of a text is whose sums overflowed in half
# precision; and 200 questions, each near a document of its own, by six libraries that search.
#
# Seen with sentence-transformers 6.2.0, usearch 2.26.6, voyager 2.2.3, faiss-cpu 1.15.1, pylance 14.0.2,
# qdrant-client 1.20.0 (in memory):
#   For sentence-transformers' `semantic_search` NaN is the nearest of all: the broken document is the first
#   answer to every question, with a score of NaN, in front of the right one. Where the documents are looked
#   through in chunks (of 500,000 unless told) that is so in the first chunk alone; in a later one it is
#   nowhere.
#   usearch's graph takes it for a neighbour: it stands in front of the right document for a quarter of the
#   questions if it was the first that was added, and for some of them wherever it was, and hides what is
#   behind it. Without it all questions find their document. voyager misses a few more than the broken one.
#   faiss and Lance do as if it were not there; qdrant refuses it. Nobody else says a word.
# So one empty or overlong text among the documents puts itself, or nothing, under the answers to others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0 \
  usearch==2.26.6 voyager==2.2.3 faiss-cpu==1.15.1 pylance==14.0.2 qdrant-client==1.20.0
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import faiss
import lance
import numpy as np
import pyarrow as pa
import torch
import voyager
from qdrant_client import QdrantClient, models
from sentence_transformers.util import semantic_search
from usearch.index import Index

DOCUMENTS, QUESTIONS, WIDTH, WANTED = 2000, 200, 64, 3
draw = np.random.default_rng(0)
sound = draw.normal(size=(DOCUMENTS, WIDTH)).astype(np.float32)
sound /= np.linalg.norm(sound, axis=1, keepdims=True)
questions = sound[:QUESTIONS] + 0.05 * draw.normal(size=(QUESTIONS, WIDTH)).astype(np.float32)
places = 0


def by_search(documents, **more):
    found = semantic_search(torch.tensor(questions), torch.tensor(documents), top_k=WANTED, **more)
    return [[hit["corpus_id"] for hit in hits] for hits in found]


def by_usearch(documents):
    index = Index(ndim=WIDTH, metric="cos", dtype="f32")
    index.add(np.arange(DOCUMENTS), documents, threads=1)
    return index.search(questions, WANTED, threads=1).keys.tolist()


def by_voyager(documents):
    index = voyager.Index(voyager.Space.Cosine, num_dimensions=WIDTH)
    index.add_items(documents, num_threads=1)
    return [index.query(question, WANTED)[0].tolist() for question in questions]


def by_faiss(index):
    def search(documents):
        index.reset()
        index.add(documents)
        return index.search(questions, WANTED)[1].tolist()

    return search


def by_lance(documents):
    global places
    places += 1
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(documents.ravel()), WIDTH)
    table = lance.write_dataset(pa.table({"id": np.arange(DOCUMENTS), "vector": vectors}), f"place_{places}")
    asked = {"column": "vector", "k": WANTED, "metric": "cosine"}
    return [table.to_table(nearest=asked | {"q": question})["id"].to_pylist() for question in questions]


def by_qdrant(documents):
    client = QdrantClient(":memory:")
    like = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection("documents", vectors_config=like)
    client.upload_collection("documents", vectors=documents, ids=list(range(DOCUMENTS)), wait=True)
    return [
        [point.id for point in client.query_points("documents", query=question, limit=WANTED).points]
        for question in questions.tolist()
    ]


WAYS = {
    "semantic_search": by_search,
    "semantic_search, 500 at a time": lambda documents: by_search(documents, corpus_chunk_size=500),
    "usearch": by_usearch,
    "voyager": by_voyager,
    "faiss, flat": by_faiss(faiss.IndexFlatIP(WIDTH)),
    "faiss, HNSW": by_faiss(faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)),
    "lance": by_lance,
    "qdrant": by_qdrant,
}
PACKAGES = ("sentence-transformers", "usearch", "voyager", "faiss-cpu", "pylance", "qdrant-client")
print(*(f"{name} {version(name)}" for name in PACKAGES), sep=", ")
seen = {}
for name, search in WAYS.items():
    assert [hits[0] for hits in search(sound)] == list(range(QUESTIONS)), name
    for broken in (0, 1000):
        documents = sound.copy()
        documents[broken] = np.nan
        try:
            found = search(documents)
        except ValueError as error:
            print(f"{name:30} refuses: {error}")
            seen[name, broken] = "refused"
            continue
        asked = [place for place in range(QUESTIONS) if place != broken]
        first = sum(found[place][0] == broken for place in asked)
        right = sum(found[place][0] == place for place in asked)
        print(f"{name:30} document {broken:4} is NaN: first for {first} of {len(asked)}, {right} find their own")
        seen[name, broken] = (first / len(asked), right / len(asked))
for broken in (0, 1000):
    assert seen.pop(("semantic_search", broken)) == (1.0, 0.0)
    in_chunks = seen.pop(("semantic_search, 500 at a time", broken))
    assert in_chunks == ((1.0, 0.0) if broken == 0 else (0.0, 1.0))
    assert seen.pop(("qdrant", broken)) == "refused"
    first, right = seen.pop(("usearch", broken))
    assert first > (0.15 if broken == 0 else 0.02) and right < 1 - first + 0.01
    first, right = seen.pop(("voyager", broken))
    assert first == 0 and right >= 0.95
assert len(seen) == 6 and all(told == (0.0, 1.0) for told in seen.values()), seen
PY
OMP_NUM_THREADS=1 HF_HOME=$work/hf LANCE_LOG=error venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
