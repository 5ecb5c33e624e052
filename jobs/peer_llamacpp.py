"""llama.cpp's server inside this process (xllamacpp), for the Python of a peer's environment.

    PEER run MODEL SLOTS      # rows from stdin, all asked for at once: prints a `Measured`
    PEER score MODEL SLOTS    # windows of token ids from stdin: prints each token's log-probability

Settings are llama.cpp's own (KV cache in float16, flash attention where it likes), with as many
threads as OMP_NUM_THREADS says, else a thread a core. It reports no log-probabilities of a prompt:
each token is forced by a bias as the one that follows those before it, and its log-probability is
of the logits as they were without the bias.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from contenders import THREADS, measure

MARGIN = 8  # tokens of a slot's context beyond what is asked of it
SURE = 1e6  # a bias that leaves no other choice
WARM_UP = 4  # tokens


class Peer:
    """A server with so many slots, each with room for so many tokens."""

    def __init__(self, path: str, slots: int, room: int) -> None:
        import xllamacpp  # type: ignore[import-not-found]

        p = xllamacpp.CommonParams()
        p.model.path, p.n_parallel, p.n_ctx = path, slots, slots * (room + MARGIN)
        p.n_gpu_layers, p.verbosity, p.fit_params, p.cache_ram_mib = 0, -1, False, 0
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = THREADS
        self._server = xllamacpp.Server(p)
        self._pool = ThreadPoolExecutor(slots)

    def complete(self, prompt: list[int], count: int, **more: Any) -> list[dict[str, Any]]:
        """Greedy tokens after a prompt: `id` and `logprob` of each."""
        said = self._ask(prompt, count, {"n_probs": 1} | more)
        told = said["choices"][0]["logprobs"] or {"content": []}  # none of half a character
        found: list[dict[str, Any]] = told["content"]
        return found

    def generate(self, rows: list[tuple[list[int], int, dict[str, Any]]]) -> list[int]:
        """How many tokens each row got: prompts, tokens to generate and what else is asked."""
        done = self._pool.map(lambda row: self._ask(*row), rows)
        return [int(said["usage"]["completion_tokens"]) for said in done]

    def _ask(self, prompt: list[int], count: int, more: dict[str, Any]) -> dict[str, Any]:
        asked = {"prompt": prompt, "n_predict": count, "temperature": 0.0, "ignore_eos": True}
        asked |= {"samplers": ["top_k"], "top_k": 1, "cache_prompt": False}
        said = self._server.handle_completions(asked | more)
        found: dict[str, Any] = json.loads(said) if isinstance(said, str) else said
        return found

    def run(self, rows: list[tuple[list[int], int]]) -> list[list[int]]:
        """Tokens of all rows, asked for at once."""
        done = self._pool.map(lambda row: self.complete(*row), rows)
        return [[token["id"] for token in one] for one in done]

    def score(self, windows: list[list[int]]) -> list[list[float | None]]:
        """The log-probability of each token of each window but its first; None where the server
        keeps it to itself, as a token ends within a character."""
        return list(self._pool.map(self._score, windows))

    def _score(self, window: list[int]) -> list[float | None]:
        found: list[float | None] = []
        for at in range(1, len(window)):
            bias = [[window[at], SURE]]
            told = self.complete(window[:at], 1, logit_bias=bias, cache_prompt=True)
            assert not told or told[0]["id"] == window[at], "the bias did not force the token"
            found.append(float(told[0]["logprob"]) if told else None)
        return found


def main() -> None:
    what, path, slots = sys.argv[1:]
    given = json.loads(sys.stdin.read())
    if what == "score":
        room = max(map(len, given))
        print(json.dumps(Peer(path, int(slots), room).score(given)))
        return
    peer = Peer(path, int(slots), max(len(prompt) + count for prompt, count in given))
    peer.run([(prompt[:20], WARM_UP) for prompt, _ in given[: int(slots)]])
    print(json.dumps(asdict(measure(lambda: peer.run(given)))))


if __name__ == "__main__":
    main()
