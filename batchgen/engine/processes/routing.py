"""Which process a request goes to: the one that would then have the least work (cache-aware load
balancing, as SGLang's router does it).

A process that computed a prompt's prefix has its keys and values in its prefix cache, so the rest
of the prompt is less work for it than for another process. So questions on one document come
together, while an instruction that all rows share is computed once by each process. Work, and what
the prefix cache saves of it, are estimated in tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Hashable
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar

from batchgen.engine.prefix.block_hashes import extend_block_hashes
from batchgen.engine.request import Completion, Request

__all__ = ["Router"]

_PREFIX_TOKENS = 256
"""Prefixes of so many tokens, of twice as many and so on are hashed, and whole prompts."""
_DECODE_COST = 2
"""A generated token is as much work as so many prompt tokens."""
_MOST_PREFIXES = 1 << 16
"""Beyond these the least recently used are forgotten: no prefix cache has their blocks any more."""

Process = TypeVar("Process", bound=Hashable)


class _Work(NamedTuple):
    """One request given to a process: its work in prompt tokens, and its `max_tokens`."""

    process: Any
    tokens: float
    limit: int


class Router(Generic[Process]):
    """Knows how much work each process has, and which prefixes it has computed."""

    def __init__(self) -> None:
        self._load: dict[Process, float] = {}
        self._work: dict[int, _Work] = {}
        self._seen: dict[bytes, set[Process]] = {}
        self._generated, self._limits = 0, 0  # tokens of finished requests, and their `max_tokens`

    def route(self, request: Request, processes: Collection[Process]) -> Process:
        """Give it to the one of `processes` that then has the least work; the first of equals."""
        hashes = _prefixes(request)
        one = min(processes, key=lambda one: self._load.get(one, 0.0) - self._saved(hashes, one))
        self._give(request, one, hashes)
        return one

    def give(self, request: Request, process: Process) -> None:
        """`process` has the request, until `take`. Does nothing for a request that was routed."""
        if request.request_id not in self._work:
            self._give(request, process, _prefixes(request))

    def take(self, request_id: int, completion: Completion | None = None) -> None:
        """No process has it any more; `completion` where it has finished."""
        work = self._work.pop(request_id, None)
        if work is None:
            return
        if work.process in self._load:
            self._load[work.process] -= work.tokens
        if completion is not None:
            self._generated += len(completion.token_ids)
            self._limits += work.limit

    def forget(self, process: Process) -> None:
        """It is gone, and with it its prefix cache."""
        self._load.pop(process, None)
        for seen in self._seen.values():
            seen.discard(process)

    def _give(self, request: Request, process: Process, hashes: dict[bytes, int]) -> None:
        limit = request.params.max_tokens
        share = self._generated / self._limits if self._limits else 1.0
        prompt = len(request.prompt_token_ids) - self._saved(hashes, process)
        tokens = prompt + _DECODE_COST * limit * share
        self._work[request.request_id] = _Work(process, tokens, limit)
        self._load[process] = self._load.get(process, 0.0) + tokens
        for prefix in hashes:
            self._seen[prefix] = self._seen.pop(prefix, set()) | {process}
        while len(self._seen) > _MOST_PREFIXES:
            del self._seen[next(iter(self._seen))]

    def _saved(self, hashes: dict[bytes, int], process: Process) -> int:
        """Tokens of the longest prefix that it has computed."""
        for prefix, length in reversed(hashes.items()):
            if process in self._seen.get(prefix, ()):
                return length
        return 0


def _prefixes(request: Request) -> dict[bytes, int]:
    """Hashes of the prompt's prefixes and how many tokens each has, shortest first."""
    ids, adapter = array("i", request.prompt_token_ids), request.params.adapter
    hashes: list[bytes] = []
    extend_block_hashes(hashes, ids, _PREFIX_TOKENS, adapter)
    found = {prefix: (place + 1) * _PREFIX_TOKENS for place, prefix in enumerate(hashes)}
    whole = blake2b(ids, digest_size=16, person=b"whole")
    whole.update(adapter.encode())
    return found | {whole.digest(): len(ids)}
