"""Perplexity of a fixed text on one GGUF file (or folder): batchgen's engines, and llama.cpp's.

    python jobs/perplexity.py MODEL.gguf --peer PEER/bin/python \
        [--engine dtype=float32 --engine dtype=float32,quantization=int8] [--tokens 2048]

The text is the prompts of sample_data/general.jsonl in their order, cut into windows; a window's
first token has nothing before it and is not scored. batchgen scores prompts as `--score` does;
llama.cpp (see peer_llamacpp.py) is asked for one token after the other; what it does not tell is
left out everywhere. `agrees`: places where the likeliest token is that of the first engine.
`to_peer`, `to_first`: a perplexity's ratio to llama.cpp's or the first engine's less 1, and its
standard error. With a first engine in float32, which dequantises the file, that is what rounding
rows costs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_llamacpp import PEER
from bench_workload import engine_of, make_rows

from batchgen.engine.request import Completion, Engine, Request, SamplingParams
from batchgen.job.text.scored_prompts import prompt_targets

ENGINES = ["dtype=float32", "dtype=float32,quantization=int8"]
SLOTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .gguf file; a folder or a hub id without --peer")
    parser.add_argument("--peer", help="a Python that has xllamacpp")
    parser.add_argument("--engine", action="append", metavar="NAME=VALUE,...", dest="engines")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--window", type=int, default=256)
    args = parser.parse_args()
    lengths = [(args.window, 1)] * (args.tokens // args.window)
    path, rows = make_rows(args.model, lengths)
    windows = [list(row.prompt_token_ids) for row in rows]
    peers = ask(args.peer, path, windows) if args.peer else None
    if peers:
        print(line("llama.cpp", peers, peers), flush=True)
    first: tuple[list[float], list[int]] | None = None
    for text in args.engines or ENGINES:
        engine = engine_of(path, text, SLOTS)
        scores, likeliest = score(engine, windows)
        engine.close()
        first = first or (scores, likeliest)
        agrees = sum(map(int.__eq__, likeliest, first[1])) / len(likeliest)
        found = line(f"batchgen {text}", scores, peers) | {"agrees": round(agrees, 4)}
        found |= {"to_first": beside(scores, first[0])}
        print(found | ({"to_peer": beside(scores, peers)} if peers else {}), flush=True)
    if peers and first:
        print({"contender": "llama.cpp", "to_first": beside(peers, first[0])}, flush=True)


Told = Sequence[float | None]
"""Log-probabilities of the scored places; None where nothing was told."""


def line(name: str, scores: Told, peers: Told | None) -> dict[str, Any]:
    """Perplexity and the number of scored tokens: those that the peer told too."""
    known = [mine for mine, _ in _both(scores, peers or scores)]
    perplexity = math.exp(-statistics.mean(known))
    return {"contender": name, "perplexity": round(perplexity, 4), "tokens": len(known)}


def beside(scores: Told, peers: Told) -> str:
    """How far a perplexity is from another's."""
    apart = [its - mine for mine, its in _both(scores, peers)]
    error = statistics.stdev(apart) / math.sqrt(len(apart))
    return f"{math.expm1(statistics.mean(apart)):+.2%} +- {error:.2%}"


def _both(scores: Told, peers: Told) -> list[tuple[float, float]]:
    pairs = zip(scores, peers, strict=True)
    return [(mine, its) for mine, its in pairs if mine is not None and its is not None]


def score(engine: Engine, windows: list[list[int]]) -> tuple[list[float], list[int]]:
    """Log-probability of every token that has one before it, and the likeliest in its place."""
    for index, window in enumerate(windows):
        params = SamplingParams(max_tokens=0, prompt_logprobs=1)
        engine.add(Request(index, window, params, targets=prompt_targets(window, params)))
    found: dict[int, Completion] = {}
    while engine.num_unfinished:
        found |= {done.request_id: done for done in engine.step()}
    done = [found[index] for index in range(len(windows))]
    scores = [one for window in done for one in window.target_logprobs or ()]
    likeliest = [top[0][0] for window in done for top in window.target_tops or ()]
    return scores, likeliest


def ask(peer: str, path: Path, windows: list[list[int]]) -> list[float | None]:
    """llama.cpp's log-probabilities of the same tokens."""
    command = [peer, str(PEER), "score", str(path), str(min(SLOTS, len(windows)))]
    done = subprocess.run(
        command, input=json.dumps(windows), text=True, stdout=subprocess.PIPE, check=True
    )
    return [one for window in json.loads(done.stdout.splitlines()[-1]) for one in window]


if __name__ == "__main__":
    main()
