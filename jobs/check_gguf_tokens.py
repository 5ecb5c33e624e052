"""Does a GGUF file's vocabulary give llama.cpp's tokens, and end where it ends?

    python -m venv peer && peer/bin/pip install xllamacpp
    python jobs/check_gguf_tokens.py --peer peer/bin/python                # tiny vocabularies
    python jobs/check_gguf_tokens.py --peer peer/bin/python MODEL.gguf ... # real ones
    python jobs/check_gguf_tokens.py --peer peer/bin/python --keep tests/data/gguf_tokens.json

The tests' odd texts and random ones, as prompts (BOS and EOS as the file says, special tokens in a
text read as such).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from check_gguf import parser_of_files

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

RANDOM = 400
PEER = """
import json, sys, urllib.request
import xllamacpp as x

def tokens(path, texts):
    p = x.CommonParams()
    p.model.path = path
    p.n_ctx = p.n_batch = p.n_ubatch = 512
    p.n_parallel, p.n_gpu_layers, p.cpuparams.n_threads, p.verbosity = 1, 0, 1, 4
    p.warmup = p.fit_params = False
    server = x.Server(p)
    def ask(text):
        body = {"content": text, "add_special": True, "parse_special": True}
        url, kind = server.listening_address + "/tokenize", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), kind)
        try:
            return json.loads(urllib.request.urlopen(request).read())["tokens"]
        except Exception as error:
            return str(error)
    return [ask(text) for text in texts]

for line in sys.stdin:
    path, texts = json.loads(line)
    print("MODEL", flush=True)
    try:
        found = tokens(path, texts)
    except Exception as error:
        found = str(error)
    print("RESULT" + json.dumps(found), flush=True)
"""


def main() -> int:
    from tiny_gguf_tokens import KEPT, TEXTS, VOCABULARIES, odd_texts

    parser = parser_of_files(__doc__)
    parser.add_argument("--only", default="", help="of the tiny files, those whose name has this")
    parser.add_argument("--seed", type=int, default=1, help="of the random texts")
    args = parser.parse_args()
    kept: dict[str, Any] = {}
    wrong = 0
    texts = TEXTS + odd_texts(args.seed, RANDOM)
    with tempfile.TemporaryDirectory() as folder:
        files = [(path.name, path) for path in args.models]
        if not files:
            named = {k: v for k, v in VOCABULARIES.items() if args.only in k}
            files = [
                (name, one.write(Path(folder) / f"{index}.gguf"))
                for index, (name, one) in enumerate(named.items())
            ]
        for name, path in files:
            found, ends = _ask(path, args.peer, texts)
            if args.models or name in KEPT:
                kept[name] = {"ends": ends, "ids": found[: len(TEXTS)]}
            wrong += _compare(name, path, texts, found, ends)
    if args.keep:
        rows = (f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in kept.items())
        args.keep.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return int(wrong > 0)


def _ask(path: Path, peer: str, texts: list[str]) -> tuple[list[Any], list[int]]:
    """llama.cpp's ids of each text (an error's text where it has none), and the ids that end."""
    given = json.dumps([str(path), texts]) + "\n"
    said = subprocess.run(
        [peer, "-c", PEER], input=given, capture_output=True, text=True, errors="replace"
    )
    lines = (said.stdout + said.stderr).splitlines()
    found = next(json.loads(one[6:]) for one in lines if one.startswith("RESULT"))
    ends = [int(one.split(" - ")[1].split()[0]) for one in lines if "load:   - " in one]
    if isinstance(found, str):
        print(said.stderr[-1500:])
    return ([found] * len(texts) if isinstance(found, str) else found), sorted(set(ends))


def _compare(name: str, path: Path, texts: list[str], found: list[Any], ends: list[int]) -> int:
    from batchgen.errors import ModelRefusedError
    from batchgen.gguf.tokenizer.build import build_tokenizer
    from batchgen.gguf.tokenizer.special import end_ids
    from batchgen.gguf_header import read_gguf_header

    metadata = read_gguf_header(path).metadata
    try:
        tokenizer = build_tokenizer(metadata, path)
    except ModelRefusedError as error:
        print(f"| {name} | refused: {error.message[:200]}")
        return 1
    own = [tokenizer.encode(text).ids for text in texts]
    off = [(t, o, f) for t, o, f in zip(texts, own, found, strict=True) if o != f]
    same_ends = sorted(end_ids(metadata)) == ends
    print(f"| {name} | {len(texts) - len(off)}/{len(texts)} texts | ends {same_ends}", flush=True)
    if not same_ends:
        print("   ends", sorted(end_ids(metadata)), ends)
    for text, ours, theirs in off[:2]:
        print("  ", repr(text), "\n    ours  ", ours, "\n    theirs", theirs)
    return len(off) + (not same_ends)


if __name__ == "__main__":
    raise SystemExit(main())
