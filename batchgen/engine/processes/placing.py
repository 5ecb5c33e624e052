"""Which process a request goes to: the one that would then have least to do.

A process that computed the beginning of a prompt has its keys and values, so what is left of that
prompt costs it less than another one: questions on one document come together, while an instruction
that all rows share is computed by each process once. What a process has in hand is counted in
tokens, and so is what it saves; nothing here is more than a guess at where work is done soonest.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Hashable
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar

from batchgen.engine.prefix.block_hashes import extend_block_hashes
from batchgen.engine.request import Completion, Request

__all__ = ["Placing"]

_PIECE = 256
"""Tokens: beginnings of so many, of twice as many and so on have names, and whole prompts."""
_STEP = 2
"""A token that is generated costs as much as so many of a prompt."""
_MOST_BEGINNINGS = 1 << 16
"""Those that nobody had for longest are forgotten: their blocks are in no cache any more."""

Process = TypeVar("Process", bound=Hashable)


class _Work(NamedTuple):
    """What a process was given with a request, in tokens of a prompt; its `max_tokens`."""

    process: Any
    tokens: float
    limit: int


class Placing(Generic[Process]):
    """What each process has in hand and which beginnings it has seen."""

    def __init__(self) -> None:
        self._load: dict[Process, float] = {}
        self._work: dict[int, _Work] = {}
        self._seen: dict[bytes, set[Process]] = {}
        self._made, self._limits = 0, 0  # tokens of those that finished, and what bounded them

    def place(self, request: Request, processes: Collection[Process]) -> Process:
        """Give it to the one of `processes` that has least to do then; the first of equals."""
        names = _beginnings(request)
        one = min(processes, key=lambda one: self._load.get(one, 0.0) - self._saved(names, one))
        self._give(request, one, names)
        return one

    def give(self, request: Request, process: Process) -> None:
        """It has the request, until `take`; no news where it was placed there."""
        if request.request_id not in self._work:
            self._give(request, process, _beginnings(request))

    def take(self, request_id: int, completion: Completion | None = None) -> None:
        """It is not in a process's hands any more, as it is finished or for another reason."""
        work = self._work.pop(request_id, None)
        if work is None:
            return
        if work.process in self._load:
            self._load[work.process] -= work.tokens
        if completion is not None:
            self._made += len(completion.token_ids)
            self._limits += work.limit

    def forget(self, process: Process) -> None:
        """It is gone, and with it what it computed."""
        self._load.pop(process, None)
        for seen in self._seen.values():
            seen.discard(process)

    def _give(self, request: Request, process: Process, names: dict[bytes, int]) -> None:
        limit = request.params.max_tokens
        share = self._made / self._limits if self._limits else 1.0
        prompt = len(request.prompt_token_ids) - self._saved(names, process)
        tokens = prompt + _STEP * limit * share
        self._work[request.request_id] = _Work(process, tokens, limit)
        self._load[process] = self._load.get(process, 0.0) + tokens
        for name in names:
            self._seen[name] = self._seen.pop(name, set()) | {process}
        while len(self._seen) > _MOST_BEGINNINGS:
            del self._seen[next(iter(self._seen))]

    def _saved(self, names: dict[bytes, int], process: Process) -> int:
        """Tokens of the longest beginning that it has seen."""
        for name, length in reversed(names.items()):
            if process in self._seen.get(name, ()):
                return length
        return 0


def _beginnings(request: Request) -> dict[bytes, int]:
    """Names of the prompt's beginnings and how many tokens each has, longer and longer."""
    ids, adapter = array("i", request.prompt_token_ids), request.params.adapter
    names: list[bytes] = []
    extend_block_hashes(names, ids, _PIECE, adapter)
    found = {name: (place + 1) * _PIECE for place, name in enumerate(names)}
    whole = blake2b(ids, digest_size=16, person=b"whole")
    whole.update(adapter.encode())
    return found | {whole.digest(): len(ids)}
