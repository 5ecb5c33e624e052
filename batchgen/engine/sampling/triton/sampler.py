"""A step's sampling as one object on the device: any mix of rows, within the step's graph.

Three passes over a step's logits and one over its tokens, launched for every row; a row that uses
nothing leaves all but the first at once. The host adds what only it knows before the graph runs:
records of admitted rows, masks of rows with a grammar. `sampling.sampler` is the definition of
what a row gets; `tests/test_device_sampler.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import triton

from batchgen.engine.request import MAX_TOP_LOGPROBS
from batchgen.engine.sampling.rules import BegunMasks, TokenMask, TokenRules, is_bare, mask_width
from batchgen.engine.sampling.triton.filter_kernel import CANDIDATES, filter_kernel
from batchgen.engine.sampling.triton.score_kernel import BLOCK, SUB, score_kernel
from batchgen.engine.sampling.triton.tables import DeviceTables
from batchgen.engine.sampling.triton.token_kernel import settle_kernel, token_kernel
from batchgen.engine.sampling.triton.wide_kernel import NUM_PASSES
from batchgen.engine.sampling.triton.wide_search import WideSearch
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["DeviceSampler", "Reported"]

_MOST = triton.next_power_of_2(MAX_TOP_LOGPROBS)
_WIDE = 1024


@dataclass(frozen=True, slots=True)
class Reported:
    """What a step's rows report beside their tokens, in host memory once the step is over."""

    logprobs: torch.Tensor  # float32 [num_rows]
    top_ids: torch.Tensor  # int32 [num_rows, most]
    top_logprobs: torch.Tensor  # float32 [num_rows, most]
    counts: list[int]
    """How many of them each sampled row asked for."""

    def top_lists(self, rows: list[int]) -> list[list[tuple[int, float]]] | None:
        """(id, logprob) of the sampled rows, as many as each asked for."""
        if not any(self.counts):
            return None
        ids, values = self.top_ids[rows].tolist(), self.top_logprobs[rows].tolist()
        columns = zip(ids, values, self.counts, strict=True)
        return [list(zip(i[:n], v[:n], strict=True)) for i, v, n in columns]


class DeviceSampler:
    """Owns the tables; `admit` must see every step, in order. `max_rows` bounds a step."""

    def __init__(
        self, num_slots: int, max_rows: int, vocab_size: int, device: torch.device
    ) -> None:
        self.tables = DeviceTables(num_slots, vocab_size, device)
        self._vocab_size = vocab_size
        self._device = device
        self._max_rows = max_rows
        self._rules: dict[int, TokenRules] = {}
        self._num_counted = np.full(num_slots, -1, dtype=np.int64)
        """Output tokens that a slot's counts know; -1: it has no counts."""
        self._written = np.zeros(num_slots, dtype=np.bool_)
        """Slots whose records are not those of a greedy row."""
        self._is_free = np.zeros(num_slots, dtype=np.bool_)
        """Slots whose masks allow everything."""
        self._scratch: _Scratch | None = None

    @property
    def key(self) -> tuple[bool, ...]:
        """What a captured step is bound to: whether there are counts, biases, and rows under top-p
        or min-p alone."""
        tables = self.tables
        return tables.counts is not None, tables.bias is not None, tables.may_be_wide

    def admit(self, step: ScheduledStep) -> None:
        """Take over the sequences that a step admits."""
        admitted: list[Sequence] = []
        for sequence in step.admitted:
            slot = sequence.slot
            if slot < 0:
                continue  # gone before its step was run a second time
            plain = is_bare(sequence) and sequence.request.params.greedy
            if plain and not self._written[slot]:
                continue
            self._written[slot] = not plain
            admitted.append(sequence)
            self._rules.pop(slot, None)
            self._is_free[slot] = False
            if sequence.needs_known_tokens:
                self._rules[slot] = TokenRules(sequence.request, self._vocab_size)
            counted = len(sequence.output_token_ids) if sequence.counts_tokens else -1
            self._num_counted[slot] = counted
        if admitted:
            self.tables.admit(admitted)

    def prepare(self, step: ScheduledStep) -> None:
        """Before the step runs: masks of rows whose tokens decide them; counts that are behind."""
        sampled = [step.sequences[row] for row in step.sampled]
        if self._rules:  # grammars in other threads; meanwhile the step before this one runs
            filled = BegunMasks([(self._rules.get(s.slot), s) for s in sampled]).result()
            self._write_masks([(sampled[row], mask) for row, mask in filled])
        self._follow(step, sampled)

    def _write_masks(self, filled: list[tuple[Sequence, TokenMask | None]]) -> None:
        """A row that may take anything, as while it thinks, has its mask written once for that."""
        new = [(s, w) for s, w in filled if w is not None or not self._is_free[s.slot]]
        for sequence, mask in new:
            self._is_free[sequence.slot] = mask is None
        every = np.full(mask_width(self._vocab_size), -1, dtype=np.int32)
        self.tables.write_masks([s for s, _ in new], [every if w is None else w for _, w in new])

    def choose(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [num_rows], and whether each can be trusted. Only launches: is captured.

        logits: [num_rows, vocab_size]; slots, positions: int32 [num_rows], of the row's parameters
        and of the token in its output. Rows that sample nothing have the last slot.
        """
        scratch, rows = self._buffers(logits), len(logits)
        if rows:
            for launch in scratch.launches(self.tables, logits, slots, positions):
                launch()
        return scratch.tokens[:rows], scratch.usable[:rows]

    def launches(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor
    ) -> Iterator[partial[Any]]:
        """What `choose` runs, in its order. The first and the last depend on which tables there
        are."""
        return self._buffers(logits).launches(self.tables, logits, slots, positions)

    def report(self, step: ScheduledStep) -> Reported | None:
        """Log-probabilities of the step launched last, on their way to the host, if asked for."""
        params = [step.sequences[row].request.params for row in step.sampled]
        if self._scratch is None or all(p.logprobs is None and not p.top_logprobs for p in params):
            return None
        rows, scratch = len(step), self._scratch
        counts = [min(p.top_logprobs, MAX_TOP_LOGPROBS, self._vocab_size) for p in params]
        most = max(counts)
        return Reported(
            self._to_host(scratch.logprobs[:rows]),
            self._to_host(scratch.top_ids[:rows, :most]),
            self._to_host(scratch.top_logprobs[:rows, :most]),
            counts,
        )

    def _follow(self, step: ScheduledStep, sampled: Rows[Sequence]) -> None:
        """A step that is run again finds counts that are ahead: they are made anew."""
        slots = np.array([s.slot for s in sampled], dtype=np.int64)
        counted, positions = self._num_counted[slots], np.array(step.output_positions, np.int64)
        wrong = np.flatnonzero((counted >= 0) & (counted != positions))
        self.tables.recount([sampled[j] for j in wrong.tolist()])
        self._num_counted[slots] = np.where(counted >= 0, positions + 1, -1)

    def _buffers(self, logits: torch.Tensor) -> _Scratch:
        if self._scratch is None:
            self._scratch = _Scratch(self._max_rows, logits.shape[1], logits.device)
        return self._scratch

    def _to_host(self, values: torch.Tensor) -> torch.Tensor:
        on_gpu = values.device.type == "cuda"
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_gpu)
        return host.copy_(values, non_blocking=True)


class _Scratch:
    """Memory between the passes, for the largest step; made once, so that graphs share it."""

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self.tiles = triton.cdiv(vocab_size, BLOCK)
        self.num_parts = self.tiles * (BLOCK // SUB)
        self.width = triton.next_power_of_2(self.num_parts)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.scores = empty(rows, vocab_size)
        self.best, self.raw_best = empty(rows, self.tiles), empty(rows, self.tiles)
        self.where = empty(rows, self.tiles, dtype=torch.int32)
        self.mass = empty(rows, self.tiles, dtype=torch.float64)
        self.raw_mass = empty(rows, self.tiles)
        self.maxima, self.raw_maxima = empty(rows, self.num_parts), empty(rows, self.num_parts)
        self.row_best, self.row_mass = empty(rows), empty(rows, dtype=torch.float64)
        self.part_ids = empty(rows, self.width, dtype=torch.int32)
        self.candidates = empty(rows, CANDIDATES)
        self.candidate_ids = empty(rows, CANDIDATES, dtype=torch.int32)
        self.wide = WideSearch(rows, self.tiles, device)
        self.tokens = empty(rows, dtype=torch.int64)
        self.usable = empty(rows, dtype=torch.bool)
        self.logprobs = empty(rows)
        self.top_ids = empty(rows, _MOST, dtype=torch.int32)
        self.top_logprobs = empty(rows, _MOST)

    def launches(
        self,
        tables: DeviceTables,
        logits: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> Iterator[partial[Any]]:
        """All passes over a step's logits [num_rows, vocab_size]."""
        rows, vocab_size = logits.shape
        stride, records = logits.stride(0), tables.records
        floats, doubles = records.view(torch.float32), records.view(torch.float64)
        keys = records.view(torch.int64)
        counts = self.where if tables.counts is None else tables.counts
        bias = self.best if tables.bias is None else tables.bias
        has_counts = tables.counts is not None
        yield partial(
            score_kernel[(rows, self.tiles)],
            logits, self.scores, slots, positions, records, floats, doubles, counts, bias,
            tables.masks, tables.stops, self.best, self.where, self.mass, self.maxima,
            self.raw_best, self.raw_mass, self.raw_maxima, vocab_size, stride,
            tables.masks.shape[1], HAS_COUNTS=has_counts, HAS_BIAS=tables.bias is not None,
            BLOCK=BLOCK, SUB=SUB, num_warps=8,
        )  # fmt: skip
        tiles = triton.next_power_of_2(self.tiles)
        yield partial(
            token_kernel[(rows,)],
            logits, self.scores, slots, positions, records, floats, keys, self.best, self.where,
            self.mass, self.tokens, self.usable, self.row_best, self.row_mass, self.wide.count,
            vocab_size, stride, self.tiles, TILES=tiles, BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
        yield partial(
            filter_kernel[(rows,)],
            logits, self.scores, slots, positions, records, floats, doubles, keys, self.maxima,
            self.row_best, self.row_mass, self.part_ids, self.candidates, self.candidate_ids,
            self.tokens, self.usable, self.wide.count, self.wide.rows, self.wide.bounds,
            vocab_size, stride, self.num_parts, PARTS=self.width, SUB=SUB, CANDIDATES=CANDIDATES,
            WIDE=_WIDE, BOUNDS=2 * NUM_PASSES, num_warps=8,
        )  # fmt: skip
        if tables.may_be_wide:
            yield from self.wide.launches(
                (logits, self.scores, slots, positions, records, floats, doubles, self.row_best,
                 self.row_mass), keys, self.tokens, vocab_size, stride,
            )  # fmt: skip
        yield partial(
            settle_kernel[(rows,)],
            logits, slots, records, counts, self.tokens, self.usable, self.raw_best, self.raw_mass,
            self.raw_maxima, self.logprobs, self.top_ids, self.top_logprobs, vocab_size, stride,
            self.tiles, HAS_COUNTS=has_counts, TILES=tiles, PARTS=self.width, MOST=_MOST,
            BLOCK=BLOCK, SUB=SUB, num_warps=8,
        )  # fmt: skip
