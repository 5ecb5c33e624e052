"""A model without weights whose logits are a function of each row's own context, read back through
the paged cache: a wrong block, slot, position or order changes what it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec
from batchgen.engine.config import EngineConfig
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import build_engine

VOCAB_SIZE = 97
EOS = 0


class FakeModel:
    """Caches token ids instead of keys; `fail_on` may raise before a step, given its input ids."""

    def __init__(self, max_position: int = 512, vocab_size: int = VOCAB_SIZE) -> None:
        self.specs: tuple[AttentionSpec, ...] = ()
        self.vocab_size = vocab_size
        self.max_position = max_position
        self.dtype = torch.float32
        self.device = torch.device("cpu")
        self.max_num_tokens: int | None = None
        self.input_vocab_size: int | None = None
        self.group: Any = None
        self.adapters: Any = None
        self.weights: Any = None
        self.num_tokens_of_steps: list[int] = []
        self.num_seqs_of_steps: list[int] = []
        self._frequencies = torch.arange(1, vocab_size + 1, dtype=torch.float64)

    def bytes_per_block(self, block_size: int) -> int:
        return block_size * 16

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        self.cache = torch.full((num_blocks, block_size, 2), -7, dtype=torch.int64)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.cache[target] = self.cache[source]

    def check(self, input_ids: torch.Tensor) -> None:
        """Overridden by tests that make steps fail."""

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        logits_indices: torch.Tensor,
    ) -> torch.Tensor:
        self.check(input_ids)
        self.num_tokens_of_steps.append(metadata.num_tokens)
        self.num_seqs_of_steps.append(metadata.num_seqs)
        slots = metadata.slot_mapping
        self.cache.view(-1, 2)[slots, 0] = input_ids
        self.cache.view(-1, 2)[slots, 1] = positions
        ends = metadata.cu_seqlens_q[1:] - 1
        rows = torch.searchsorted(ends.long(), logits_indices)
        logits = torch.empty(len(rows), self.vocab_size)
        for j, (row, place) in enumerate(zip(rows.tolist(), logits_indices.tolist(), strict=True)):
            logits[j] = self._logits(
                row, int(metadata.seq_lens[row] - (ends[row] - place)), metadata
            )
        return logits

    def _logits(self, row: int, length: int, metadata: AttentionMetadata) -> torch.Tensor:
        """After the first `length` tokens of a row."""
        num_blocks = -(-length // metadata.block_size)
        context = self.cache[metadata.block_tables[row, :num_blocks].long()].view(-1, 2)[:length]
        places = torch.arange(length)
        if not bool((context[:, 1] == places).all()):
            raise AssertionError("the cache holds something else than this row's context")
        digest = int(((context[:, 0] + 3) * (places * 7919 + 104729) % 1_000_003).sum()) % 1_000_003
        return (torch.sin(self._frequencies * digest) * 3).float()


class FailingModel(FakeModel):
    """Raises `error` at these calls, counted from 1, and whenever a row's token is poison."""

    def __init__(self, error: Exception, at: Collection[int] = (), poison: int = -5) -> None:
        super().__init__()
        self.error, self.at, self.poison, self.num_calls = error, at, poison, 0

    def check(self, input_ids: torch.Tensor) -> None:
        self.num_calls += 1
        if self.num_calls in self.at or bool((input_ids == self.poison).any()):
            raise self.error


def engine_over(model: FakeModel | None = None, depth: int = 0, **config: Any) -> LLMEngine:
    """An engine of small blocks and steps. `depth`: how many steps' tokens may be outstanding."""
    settings: dict[str, Any] = {"max_num_seqs": 16, "max_num_batched_tokens": 64, "block_size": 4}
    settings |= {"num_blocks": 400, "eos_token_ids": (EOS,)} | config
    engine = build_engine(model or FakeModel(), EngineConfig(Path("fake"), **settings))
    engine._depth = depth
    return engine
