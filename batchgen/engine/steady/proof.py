"""The proof at load that a row's logits do not depend on its step: bit for bit, at every position.

One row is computed alone, then among others, in chunks beside others, token by token, and after a
prefix that another row has left in the cache. Steps on a GPU are padded as a run's are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from batchgen.engine.attention.interface import AttentionMetadata
from batchgen.engine.config import PROOF_BLOCK_SIZE
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata

__all__ = ["ROW", "first_difference", "one_step"]

ROW = 21
"""Tokens of the row: more than a block of the cache, and no multiple of anything."""
_OTHERS = {"cpu": (9, 5), "cuda": (150, 9, 5, 97)}
"""Tokens of the rows beside it; on a GPU enough of them for every shape of a tile."""
_PADDING = {"cpu": 1, "cuda": 16}
"""Steps have a multiple of so many tokens."""

Step = Sequence[tuple[int, int, int]]
"""The pieces that a step packs: (row, first token, end); row 0 is the one that is compared."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One way to compute the row. `prefix`: tokens that another row has computed, in its blocks."""

    name: str
    steps: Sequence[Step]
    prefix: int = 0


def first_difference(model: Model) -> str | None:
    """How the row was computed when its logits first differed from those alone; None: never."""
    lengths = (ROW, *_OTHERS[model.device.type])
    longest = max(1, min(ROW, model.max_position - 1))
    rows = _rows(lengths, model)
    alone = _logits(model, rows, _Case("alone", [[(0, 0, longest)]]), longest)
    for case in _cases(len(lengths), lengths, longest):
        got = _logits(model, rows, case, longest)
        first = case.prefix  # what lies before it was not computed again
        if not torch.equal(got[first:], alone[first:]):
            return case.name
    return None


def _cases(count: int, lengths: Sequence[int], row: int) -> Iterator[_Case]:
    others = [(i, 0, lengths[i]) for i in range(1, count)]
    cut = [(i, lengths[i] - 1, lengths[i]) for i in range(1, count)]
    begun = [(i, 0, lengths[i] - 1) for i in range(1, count)]
    a, b = row // 4, row * 2 // 3
    yield _Case("among other rows", [[others[0], (0, 0, row), *others[1:]]])
    yield _Case(
        "in chunks, beside others",
        [[(0, 0, a), *begun], [*cut, (0, a, b)], [(0, b, row)]],
    )
    ones: list[Step] = [[(0, i, i + 1), *(cut if i % 2 else [])] for i in range(row - 3, row)]
    yield _Case("token by token", [begun, [(0, 0, row - 3)], *ones])
    if row > PROOF_BLOCK_SIZE:
        yield _Case("after a cached prefix", [[(0, PROOF_BLOCK_SIZE, row), *others]], 16)


def _rows(lengths: Sequence[int], model: Model) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    top = model.vocab_size
    rows = [torch.randint(0, top, (length,), generator=generator) for length in lengths]
    return [row.to(model.device) for row in rows]


def _logits(
    model: Model, rows: Sequence[torch.Tensor], case: _Case, length: int
) -> torch.Tensor:  # [length, vocab_size]
    """Row 0's logits; of positions that the case did not compute, what they were is left out."""
    per_row = -(-max(len(row) for row in rows) // PROOF_BLOCK_SIZE)
    # In an order of their own, so that a block's place cannot matter unseen.
    tables = [tuple(reversed(range(i * per_row, (i + 1) * per_row))) for i in range(len(rows) + 1)]
    model.allocate_cache(per_row * (len(rows) + 1), PROOF_BLOCK_SIZE)
    found = torch.zeros(length, model.vocab_size, dtype=model.dtype, device=model.device)
    table = tables[0]
    if case.prefix:
        writer = Piece(tables[-1], 0, case.prefix + 1)  # whoever had the same beginning
        one_step(model, [writer], [rows[0][: case.prefix + 1]], [0])
        shared = case.prefix // PROOF_BLOCK_SIZE
        table = (*tables[-1][:shared], *table[shared:])
    try:
        for step in case.steps:
            pieces = [Piece(table if i == 0 else tables[i], begin, end) for i, begin, end in step]
            ids = [rows[i][begin:end] for i, begin, end in step]
            at, wanted = 0, []
            for i, begin, end in step:
                wanted += [(at + n, begin + n) for n in range(end - begin)] if i == 0 else []
                at += end - begin
            logits = one_step(model, pieces, ids, [place for place, _ in wanted] or [0])
            for (_, position), row in zip(wanted, logits, strict=False):
                found[position] = row
    finally:
        model.release_cache()
    return found


@torch.inference_mode()
def one_step(
    model: Model, pieces: Sequence[Piece], ids: Sequence[torch.Tensor], wanted: Sequence[int]
) -> torch.Tensor:  # [len(wanted), vocab_size]
    """Logits at the places `wanted` of a step that packs these pieces, padded as runs pad it."""
    metadata = make_metadata(pieces, PROOF_BLOCK_SIZE, model.device)
    row = torch.cat(list(ids))
    places = [torch.arange(p.start, p.stop, device=model.device) for p in pieces]
    positions = torch.cat(places)
    missing = -len(row) % _PADDING[model.device.type]
    if missing:
        _pad(metadata, missing)
        row = torch.cat([row, row.new_zeros(missing)])
        positions = torch.cat([positions, positions.new_zeros(missing)])
    indices = torch.tensor(wanted, dtype=torch.int64, device=model.device)
    return model.forward(row, positions, metadata, indices)


def _pad(metadata: AttentionMetadata, missing: int) -> None:
    """So many more tokens, which are nobody's and are not written."""
    slots = metadata.slot_mapping
    metadata.slot_mapping = torch.cat([slots, slots.new_full((missing,), -1)])
