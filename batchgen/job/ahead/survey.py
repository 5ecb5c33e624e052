"""What rows have in common, and so what of them is computed: equal rows, equal beginnings."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from batchgen.engine.config import GPU_BLOCK_SIZE
from batchgen.engine.prefix.block_hashes import extend_block_hashes
from batchgen.engine.prefix.folding import fold_key
from batchgen.engine.request import Request
from batchgen.job.ahead.cost import Work
from batchgen.job.flow.engine_stage import WINDOW_ROWS

__all__ = ["Survey"]

_MOST_BLOCKS = 1_000_000
"""That are remembered; beyond them nothing more is taken for shared."""


@dataclass(slots=True)
class _Block:
    """Of the rows that begin with it: how many there are, and what they generate."""

    rows: int = 0
    generated: int = 0


class Survey:
    """Requests in; `work` is what an engine computes for them."""

    def __init__(self, *, prefix_caching: bool, fold: bool) -> None:
        self._prefix_caching, self._fold = prefix_caching, fold
        self._blocks: dict[bytes, _Block] = {}
        self._window: deque[Hashable] = deque(maxlen=WINDOW_ROWS)
        self._recent: dict[Hashable, int] = {}
        self._outputs: list[int] = []
        self._attended = self._own_reads = 0.0
        self.num_folded = 0
        """Requests that take the answer of an equal one."""
        self.prompt_tokens = 0
        """Of all requests that are computed, whether their blocks are known or not."""
        self.computed_tokens = 0
        self.own_tokens = 0
        """Of cache, over all rows: those in blocks of no other row, and what is generated."""

    @property
    def num_computed(self) -> int:
        """Requests that are computed themselves."""
        return len(self._outputs)

    def add(self, request: Request, output: int, *, sibling: bool = False) -> None:
        """`output`: tokens that it is expected to generate. `sibling`: its prompt is computed for
        another sample of its row."""
        if self._is_equal_to_one(request):
            self.num_folded += 1
            return
        length = len(request.prompt_token_ids)
        known, counted = self._share(request, output)
        known = length if sibling else known
        self.prompt_tokens += length
        self.computed_tokens += length - known
        self.own_tokens += length - known + output
        self._attended += (length - known) * (length + known) / 2
        self._own_reads += output * (length - counted + output / 2)
        self._outputs.append(output)

    def work(self, slots: int) -> Work:
        """With so many rows at once; those that begin alike run together, and read that once."""
        shared = sum(
            GPU_BLOCK_SIZE * block.generated / min(block.rows, slots)
            for block in self._blocks.values()
        )
        reads = self._own_reads + shared
        return Work(self._outputs, self.computed_tokens, self._attended, reads)

    def _is_equal_to_one(self, request: Request) -> bool:
        """Among those that wait or run at the same time."""
        key = fold_key(request) if self._fold else None
        if key is None:
            return False
        if len(self._window) == WINDOW_ROWS:
            self._forget(self._window[0])
        self._window.append(key)
        self._recent[key] = self._recent.get(key, 0) + 1
        return self._recent[key] > 1

    def _forget(self, key: Hashable) -> None:
        self._recent[key] -= 1
        if not self._recent[key]:
            del self._recent[key]

    def _share(self, request: Request, output: int) -> tuple[int, int]:
        """Tokens in blocks that an earlier row begins with too, and in those that are counted."""
        names: list[bytes] = []
        if self._prefix_caching:
            ids = array("i", request.prompt_token_ids[:-1])  # the last one is always computed
            extend_block_hashes(names, ids, GPU_BLOCK_SIZE, request.params.adapter)
        known = counted = 0
        for name in names:
            block = self._blocks.get(name)
            if block is None:
                if len(self._blocks) >= _MOST_BLOCKS:
                    break
                block = self._blocks[name] = _Block()
            known += GPU_BLOCK_SIZE if block.rows else 0
            counted += GPU_BLOCK_SIZE
            block.rows += 1
            block.generated += output
        return known, counted
