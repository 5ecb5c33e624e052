"""What a captured step reads: one flat buffer on the device, filled by one copy from the host.

Sections of int32, one after the other, for a bucket of T tokens and S sequences:

    input_ids T | positions T | slot_mapping T | cu_seqlens_q S+1 | seq_lens S | logits_indices S |
    slots S | token_slots S | table_index U | table_value U | temperature S | keys 2S |
    output_positions S | adapters S |
    shared_items, shared_members 2S, shared_rows (of buckets that share)

A pending token stands in input_ids as -1 - slot: the graph takes the slot's last token instead. The
block table lies on the device, a row a slot; a step brings the U entries that are new (more than
that, of rows that begin with many cached blocks, go ahead of the graph). Padding
points at a slot and at table entries that nobody reads. Temperatures are float32 and keys have two
words each; they matter where rows draw at random. Adapters are numbers (-1: none), and matter where
rows choose among them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.attention.interface import (
    MAX_SHARED_ITEMS,
    ROW_WORDS,
    SHARED_WORDS,
    SharedReads,
    SharingShape,
)
from batchgen.engine.cuda.buckets import Bucket
from batchgen.engine.cuda.shared_reads import SharedPlan, plan_shared_reads
from batchgen.engine.sampling.batch import HostDraws
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["HostTable", "MoreEntries", "Sections", "StepPacker", "section_lengths"]

_Ints = npt.NDArray[np.int32]


class Sections(NamedTuple):
    """The sections of one bucket, as views of a flat buffer (numpy on the host, torch there)."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    cu_seqlens_q: torch.Tensor
    seq_lens: torch.Tensor
    logits_indices: torch.Tensor
    slots: torch.Tensor
    token_slots: torch.Tensor
    table_index: torch.Tensor
    table_value: torch.Tensor
    temperature: torch.Tensor
    keys: torch.Tensor
    output_positions: torch.Tensor
    adapters: torch.Tensor
    shared_items: torch.Tensor
    shared_members: torch.Tensor
    shared_rows: torch.Tensor

    @classmethod
    def of(cls, flat: torch.Tensor, bucket: Bucket, block_size: int) -> Sections:
        """Cut a flat int32 buffer into the bucket's sections."""
        lengths = section_lengths(bucket, block_size)
        parts = list(flat[: sum(lengths)].split(lengths))
        parts[3] = parts[3][: bucket.num_seqs + 1]
        return cls(*parts)

    def shared_reads(self) -> SharedReads:
        """Keys that are read for several sequences at once."""
        items = self.shared_items.view(-1, SHARED_WORDS)
        return SharedReads(items, self.shared_members, self.shared_rows.view(-1, ROW_WORDS))


def section_lengths(bucket: Bucket, block_size: int) -> list[int]:
    """Lengths in the order of `Sections`, multiples of 16 bytes: kernels specialise on alignment.

    A row of n tokens needs at most n / block_size + 1 new blocks, those that it shares left out.
    """
    tokens, seqs, shares = bucket
    updates = (tokens // block_size + seqs + 3) // 4 * 4
    shared = [MAX_SHARED_ITEMS * SHARED_WORDS, 2 * seqs, ROW_WORDS * seqs] if shares else [0] * 3
    drawn = [seqs, 2 * seqs, seqs]
    return [tokens] * 3 + [seqs + 4] + [seqs] * 4 + [updates] * 2 + drawn + [seqs] + shared


class HostTable:
    """The host's copy of the block table; the last row is where padding points."""

    def __init__(self, num_slots: int, max_blocks: int) -> None:
        self.blocks = np.zeros((num_slots + 1, max_blocks), dtype=np.int32)

    def apply(self, step: ScheduledStep) -> tuple[_Ints, _Ints]:
        """Take over a step's new blocks: their flat places in the table, and their values."""
        width = self.blocks.shape[1]
        places: list[int] = []
        values: list[int] = []
        for slot, first, blocks in step.block_updates:
            place = slot * width + first
            places.extend(range(place, place + len(blocks)))
            values.extend(blocks)
        index = np.array(places, dtype=np.int32)
        value = np.array(values, dtype=np.int32)
        self.blocks.reshape(-1)[index] = value
        return index, value


class MoreEntries:
    """Table entries ahead of a graph, through pinned memory of their own: rows that begin with many
    cached blocks bring more than a bucket has room for."""

    def __init__(self) -> None:
        self._pinned: torch.Tensor | None = None

    def write(self, table: torch.Tensor, index: _Ints, value: _Ints) -> None:
        """Launch the copy; the one before it must be over."""
        if self._pinned is None or self._pinned.shape[1] < len(index):
            room = 1 << len(index).bit_length()
            on_gpu = table.device.type == "cuda"
            self._pinned = torch.zeros((2, room), dtype=torch.int32, pin_memory=on_gpu)
        self._pinned[0, : len(index)] = torch.from_numpy(index)
        self._pinned[1, : len(index)] = torch.from_numpy(value)
        entries = self._pinned.to(table.device, non_blocking=True)[:, : len(index)]
        table.view(-1).index_copy_(0, entries[0].long(), entries[1])


class StepPacker:
    """Writes a step into pinned memory, in array operations over rows and tokens. `adapters`: those
    that rows choose, `GroupedAdapters`."""

    def __init__(
        self, num_slots: int, max_blocks: int, block_size: int, adapters: Any = None
    ) -> None:
        self._adapters = adapters
        self.table = HostTable(num_slots, max_blocks)
        self._trash_slot = num_slots
        self._trash_place = num_slots * max_blocks
        self._block_size = block_size
        self._plan: SharedPlan | None = None
        self._planned_for: list[int] = []
        self._entries = (np.empty(0, np.int32), np.empty(0, np.int32))

    def plan_shared(self, step: ScheduledStep, shape: SharingShape | None) -> SharedPlan | None:
        """Take over a step's new blocks; which keys its rows read together, if that pays."""
        self._entries = self.table.apply(step)
        if shape is None or not step.num_sharing_prefix:
            return None
        same = step.slots == self._planned_for and not step.admitted
        if not (same and len(step) == step.total_tokens):  # else as it was: rows only grew
            self._plan = plan_shared_reads(step, self.table.blocks, self._block_size, shape)
            decodes = len(step) == step.total_tokens
            self._planned_for = step.slots if decodes else []
        return self._plan

    @staticmethod
    def pack_shared(plan: SharedPlan, sections: Sections) -> None:
        """Fill in which keys are read together; items beyond have none."""
        _fill(sections.shared_items, plan.items.reshape(-1), 0)
        _fill(sections.shared_members, plan.members, 0)
        _fill(sections.shared_rows, plan.rows.reshape(-1), 0)

    def pack(self, step: ScheduledStep, sections: Sections) -> tuple[_Ints, _Ints] | None:
        """Fill the host's sections with a step that fits them, after `plan_shared`. Returns places
        and values of table entries that have no room there."""
        index, value = self._entries
        num_tokens = np.array(step.num_tokens, dtype=np.int32)
        starts = np.array(step.starts, dtype=np.int32)
        slots = np.array(step.slots, dtype=np.int32)
        ends = np.cumsum(num_tokens, dtype=np.int32)
        rows, total = len(step), step.total_tokens
        if total == rows:
            token_slots, positions = slots, starts
        else:
            token_slots = np.repeat(slots, num_tokens)
            positions = np.arange(total, dtype=np.int32)
            positions += np.repeat(starts - ends + num_tokens, num_tokens)
        sampled = np.array(step.sampled, dtype=np.int32)
        sampling = np.full(rows, self._trash_slot, dtype=np.int32)
        sampling[sampled] = slots[sampled]
        _fill(sections.input_ids, self._input_ids(step, slots, ends), 0)
        _fill(sections.positions, positions, 0)
        _fill(sections.slot_mapping, self._slot_mapping(token_slots, positions), -1)
        _fill(sections.cu_seqlens_q[:1], np.zeros(1, np.int32), 0)
        _fill(sections.cu_seqlens_q[1:], ends, total)
        _fill(sections.seq_lens, starts + num_tokens, 0)
        _fill(sections.logits_indices, ends - 1, 0)
        _fill(sections.slots, slots, self._trash_slot)
        _fill(sections.token_slots, sampling, self._trash_slot)
        room = len(sections.table_index)
        _fill(sections.table_index, index[:room], self._trash_place)
        _fill(sections.table_value, value[:room], 0)
        if self._adapters is not None:
            _fill(sections.adapters, np.array(self._adapters.numbers(step), dtype=np.int32), -1)
        return (index[room:], value[room:]) if len(index) > room else None

    @staticmethod
    def pack_draws(step: ScheduledStep, draws: HostDraws, sections: Sections) -> None:
        """Fill in how the sampled rows draw; rows that do not sample are greedy."""
        temperature = np.zeros(len(step), dtype=np.float32)
        keys = np.zeros(len(step), dtype=np.int64)
        positions = np.zeros(len(step), dtype=np.int32)
        sampled = np.array(step.sampled, dtype=np.int64)
        temperature[sampled] = draws.temperature
        keys[sampled] = draws.keys
        positions[sampled] = draws.positions
        _fill(sections.temperature, temperature.view(np.int32), 0)
        _fill(sections.keys, keys.view(np.int32), 0)
        _fill(sections.output_positions, positions, 0)

    @staticmethod
    def pack_positions(step: ScheduledStep, sections: Sections) -> None:
        """Fill in the places of the sampled tokens in their outputs."""
        positions = np.zeros(len(step), dtype=np.int32)
        positions[step.sampled] = step.output_positions
        _fill(sections.output_positions, positions, 0)

    @staticmethod
    def _input_ids(step: ScheduledStep, slots: _Ints, ends: _Ints) -> _Ints:
        """A row that is not known has one token, pending."""
        ids = np.empty(step.total_tokens, dtype=np.int32)
        ids[ends - 1] = -1 - slots
        for row in step.known:
            known, start, count = (
                step.sequences[row].token_ids,
                step.starts[row],
                step.num_tokens[row],
            )
            if start < len(known):
                end = int(ends[row])
                ids[end - count : end] = known[start : start + count]
        return ids

    def _slot_mapping(self, token_slots: _Ints, positions: _Ints) -> _Ints:
        blocks, offsets = np.divmod(positions, self._block_size)
        mapping: _Ints = self.table.blocks[token_slots, blocks] * self._block_size + offsets
        return mapping


def _fill(section: torch.Tensor, values: _Ints, padding: int) -> None:
    target = section.numpy()
    target[: len(values)] = values
    target[len(values) :] = padding
