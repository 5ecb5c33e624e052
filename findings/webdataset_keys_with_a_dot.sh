#!/usr/bin/env bash
# Rows whose ids have a dot in them (a version, a model's name, a page of a site), written by
# webdataset's own TarWriter with the id as `__key__`, and read by webdataset and by datasets.
#
# Seen with webdataset 1.0.2, datasets 5.2.0:
#   A key ends at its first dot, for both readers. The writer takes the key with its dot, so that what
#   comes behind it is a part of the field's name: of "gpt-4.1-a", "gpt-4.1-b" and "gpt-4.1-c" one row
#   "gpt-4" is read, with three fields "1-a.txt", "1-b.txt", "1-c.txt". Where the beginnings differ the
#   rows stay, under shorter keys, without a field "txt": datasets, whose columns are those of the first
#   five rows, gives None for the text of the sixth. A key that begins with a dot is not read at all.
#   A dot before the last slash ("v1.5/a") does no harm. Neither writing nor reading says a word.
# So a shard has fewer rows than were written, or empty ones, by how their ids are spelt.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q webdataset==1.0.2 datasets==5.2.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>said || { cat said; exit 1; }
from importlib.metadata import version

import datasets
import webdataset

KEYS = {
    "one beginning": ["gpt-4.1-a", "gpt-4.1-b", "gpt-4.1-c"],
    "a late dot": ["a", "b", "c", "d", "e", "v1.5"],
    "a first dot": [".a", "b"],
    "in a folder": ["v1.5/a", "v1.5/b"],
}


def by_webdataset(path):
    rows = webdataset.WebDataset(path, shardshuffle=False).decode()
    return [{key: row[key] for key in row if key not in ("__url__", "__local_path__")} for row in rows]


def by_datasets(path):
    rows = datasets.load_dataset("webdataset", data_files=path, split="train")
    return [{key: row[key] for key in row if key != "__url__"} for row in rows]


print(*(f"{name} {version(name)}" for name in ("webdataset", "datasets")), sep=", ")
seen = {}
for number, (case, keys) in enumerate(KEYS.items()):
    path = f"{number}.tar"
    with webdataset.TarWriter(path) as shard:
        for key in keys:
            shard.write({"__key__": key, "txt": f"text of {key}"})
    seen[case] = [by_webdataset(path), by_datasets(path)]
    print(f"{case}: wrote {keys}", *seen[case], sep="\n    ")
one = {"__key__": "gpt-4", **{f"1-{end}.txt": f"text of gpt-4.1-{end}" for end in "abc"}}
assert seen["one beginning"] == [[one], [one]]
for rows, last in zip(seen["a late dot"], ({"5.txt": "text of v1.5"}, {"txt": None})):
    assert [row["txt"] for row in rows[:5]] == [f"text of {key}" for key in "abcde"]
    assert rows[5:] == [{"__key__": "v1"} | last]
assert seen["a first dot"] == 2 * [[{"__key__": "b", "txt": "text of b"}]]
folder = [{"__key__": key, "txt": f"text of {key}"} for key in KEYS["in a folder"]]
assert seen["in a folder"] == [folder, folder]
PY
! grep -i "key\|field\|dot" said
