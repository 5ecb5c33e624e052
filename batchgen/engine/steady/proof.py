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
from batchgen.engine.cuda.buckets import sizes_up_to
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata

__all__ = ["ROW", "first_difference", "one_step"]

ROW = 21
"""Tokens of the row: more than a block of the cache, and no multiple of anything."""
_OTHERS = {"cpu": (9, 5), "cuda": (150, 9, 5, 97, *(127,) * 10)}
"""Tokens of the rows beside it; on a GPU enough of them for every height of a tile."""
_SCORED = {"cpu": 8, "cuda": 160}
"""Logits that are computed beside the row's, at most: as many rows as a head's tile has, too."""

Step = Sequence[tuple[int, int, int]]
"""The pieces that a step packs: (row, first token, end); row 0 is the one that is compared."""
Table = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    """One way to compute the row. `prefix`: tokens that another row has computed, in its blocks."""

    name: str
    steps: Sequence[Step]
    prefix: int = 0


def first_difference(model: Model) -> str | None:
    """How the row was computed when its logits first differed from those alone; None: never."""
    longest = max(1, model.max_position - 1)
    lengths = [min(length, longest) for length in (ROW, *_OTHERS[model.device.type])]
    rows = _rows(lengths, model)
    alone = _logits(model, rows, _Case("alone", [[(0, 0, lengths[0])]]))
    for case in _cases(lengths):
        got = _logits(model, rows, case)
        if not torch.equal(got[case.prefix :], alone[case.prefix :]):
            return case.name
    return None


def _cases(lengths: Sequence[int]) -> Iterator[_Case]:
    row, *beside = lengths
    others = [(i, 0, length) for i, length in enumerate(beside, 1)]
    begun = [(i, 0, length - 1) for i, length in enumerate(beside, 1) if length > 1]
    last = [(i, length - 1, length) for i, length in enumerate(beside, 1)]
    a, b, c = row // 4, row * 2 // 3, max(0, row - 3)
    yield _Case("among other rows", [[others[0], (0, 0, row), *others[1:]]])
    if row > 3:
        chunks: list[Step] = [[(0, 0, a), *begun], [*last, (0, a, b)], [(0, b, row)]]
        yield _Case("in chunks, beside others", chunks)
        ones: list[Step] = [[(0, i, i + 1), *(last if i % 2 else [])] for i in range(c, row)]
        yield _Case("token by token", [begun, [(0, 0, c)], *ones])
    if row > PROOF_BLOCK_SIZE:
        shared = [(0, PROOF_BLOCK_SIZE, row), *others]
        yield _Case("after a cached prefix", [shared], PROOF_BLOCK_SIZE)


def _rows(lengths: Sequence[int], model: Model) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    top = model.vocab_size
    rows = [torch.randint(0, top, (length,), generator=generator) for length in lengths]
    return [row.to(model.device) for row in rows]


def _logits(
    model: Model, rows: Sequence[torch.Tensor], case: _Case
) -> torch.Tensor:  # [len(rows[0]), vocab_size]
    """Row 0's logits; zeros at positions that the case did not compute."""
    found = torch.zeros(len(rows[0]), model.vocab_size, dtype=torch.float64, device=model.device)
    per_row = -(-max(len(row) for row in rows) // PROOF_BLOCK_SIZE)
    model.allocate_cache(per_row * (len(rows) + 1), PROOF_BLOCK_SIZE)
    try:
        tables = _tables(model, rows, per_row, case.prefix)
        for step in case.steps:
            pieces = [Piece(tables[i], begin, end) for i, begin, end in step]
            ids = [rows[i][begin:end] for i, begin, end in step]
            own, wanted = _places(step, _SCORED[model.device.type])
            logits = one_step(model, pieces, ids, wanted)
            found[own] = logits[: own.stop - own.start].double()
    finally:
        model.release_cache()
    return found


def _places(step: Step, most: int) -> tuple[slice, list[int]]:
    """Positions of row 0 that a step computes; the places of their tokens in it, then others."""
    at, own, mine = 0, slice(0, 0), range(0)
    for i, begin, end in step:
        if i == 0:
            own, mine = slice(begin, end), range(at, at + end - begin)
        at += end - begin
    return own, [*mine, *[place for place in range(at) if place not in mine][:most]]


def _tables(model: Model, rows: Sequence[torch.Tensor], per_row: int, prefix: int) -> list[Table]:
    """Each row's blocks, in an order of their own, so that a block's place cannot matter unseen.
    Those of a prefix are filled by a row that begins as row 0 does."""
    count = len(rows) + 1
    tables = [tuple(reversed(range(i * per_row, (i + 1) * per_row))) for i in range(count)]
    writer = tables.pop()
    if prefix:
        begun = rows[0][: prefix + 1]
        one_step(model, [Piece(writer, 0, len(begun))], [begun], [0])
        blocks = prefix // PROOF_BLOCK_SIZE
        tables[0] = (*writer[:blocks], *tables[0][blocks:])
    return tables


@torch.inference_mode()
def one_step(
    model: Model,
    pieces: Sequence[Piece],
    ids: Sequence[torch.Tensor],
    wanted: Sequence[int],
    block_size: int = PROOF_BLOCK_SIZE,
) -> torch.Tensor:  # [len(wanted), vocab_size]
    """Logits at the places `wanted` of a step that packs these pieces, padded as runs pad it."""
    metadata = make_metadata(pieces, block_size, model.device)
    row = torch.cat(list(ids))
    places = [torch.arange(p.start, p.stop, device=model.device) for p in pieces]
    positions = torch.cat(places)
    missing = 0 if model.device.type == "cpu" else sizes_up_to(len(row))[-1] - len(row)
    if missing:
        _pad(metadata, missing)
        row = torch.cat([row, row.new_zeros(missing)])
        positions = torch.cat([positions, positions.new_zeros(missing)])
    indices = torch.tensor(list(wanted), dtype=torch.int64, device=model.device)
    return model.forward(row, positions, metadata, indices)


def _pad(metadata: AttentionMetadata, missing: int) -> None:
    """So many more tokens, which are nobody's and are not written."""
    slots = metadata.slot_mapping
    metadata.slot_mapping = torch.cat([slots, slots.new_full((missing,), -1)])
