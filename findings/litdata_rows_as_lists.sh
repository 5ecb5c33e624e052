#!/usr/bin/env bash
# Rows that are lists (token ids, pairs of prompt and answer, chats) of several lengths, written by
# litdata's `optimize`, as a corpus is before training, and read again by its StreamingDataset.
#
# Seen with litdata 0.2.76, torch 2.13.0:
#   The first row's length is that of all rows. Longer lists are cut and shorter ones filled up with 0;
#   of a pair of lists the answer's first token becomes the prompt's last; a chat whose first row has
#   one turn keeps one turn of every row, and a chat that is shorter than the first comes back as
#   letters of itself ("o" for a role). The number of rows is right, and nothing is said, neither when
#   they are written nor when they are read. The same lists inside a dict, or as tensors, come back
#   as they went in.
# So a corpus loses what is longer than its first row, and gains zeros, which are a token of the model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q litdata==0.2.76 torch==2.13.0
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import litdata
import torch

ASK, SAY = ({"role": role, "content": "hello"} for role in ("user", "assistant"))
IDS = [[11, 12, 13], [21, 22, 23, 24, 25], [31]]
ROWS = {
    "ids": IDS,
    "ids in a dict": [{"ids": ids} for ids in IDS],
    "ids as tensors": [torch.tensor(ids) for ids in IDS],
    "pairs": [([11, 12], [13]), ([21], [22, 23]), ([31, 32, 33], [34])],
    "pairs in a dict": [{"ask": [11, 12], "say": [13]}, {"ask": [21], "say": [22, 23]}],
    "scores": [[0.5, 0.25], [0.75, 0.5, 0.25]],
    "chats": [[ASK], [ASK, SAY], [ASK, SAY, ASK]],
    "chats in a dict": [{"messages": [ASK]}, {"messages": [ASK, SAY]}],
    "shorter chats": [[ASK, SAY], [ASK]],
    "texts": [["a", "b"], ["c", "d", "e"]],
}


def row(place):
    kind, number = place
    return ROWS[kind][number]


def back(kind):
    places = [(kind, number) for number in range(len(ROWS[kind]))]
    folder = kind.replace(" ", "_")
    litdata.optimize(row, places, output_dir=folder, chunk_bytes="1MB", num_workers=1)
    read = litdata.StreamingDataset(folder)
    assert len(read) == len(places)
    return [read[number] for number in range(len(read))]


if __name__ == "__main__":
    seen = {kind: back(kind) for kind in ROWS}
    print(f"RESULT litdata {version('litdata')}, torch {version('torch')}")
    for kind, rows in seen.items():
        same = repr(rows) == repr(ROWS[kind])
        print(f"RESULT {kind:16}", "as written" if same else rows)
    whole = {"ids in a dict", "ids as tensors", "pairs in a dict", "chats in a dict"}
    assert {kind for kind in ROWS if repr(seen[kind]) == repr(ROWS[kind])} == whole
    assert seen["ids"] == [[11, 12, 13], [21, 22, 23], [31, 0, 0]]
    assert seen["pairs"] == [([11, 12], [13]), ([21, 22], [23]), ([31, 32], [33])]
    assert seen["scores"] == [[0.5, 0.25], [0.75, 0.5]]
    assert seen["chats"] == [[ASK], [ASK], [ASK]]
    assert seen["shorter chats"][1] == [{"role": "o", "content": ""}, {"role": "", "content": ""}]
    assert seen["texts"] == [["a", "b"], ["c", "d"]]
PY
export HOME=$work DATA_OPTIMIZER_CACHE_FOLDER=$work/cache DATA_OPTIMIZER_DATA_CACHE_FOLDER=$work/data
venv/bin/python look.py > said 2>&1 || { cat said; exit 1; }
sed -n 's/^RESULT //p' said
! grep -i "warn.*\(length\|cut\|pad\)" said
