"""The oracle backend against a sum written out by hand: ragged rows, chunks, windows, sinks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engine.attention import reference
from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.reference import ReferenceBackend, ReferenceCache
from batchgen.engine.model.pieces import Piece, make_metadata

CPU = torch.device("cpu")
PLAIN = AttentionSpec(0, num_heads=4, num_kv_heads=2, head_dim=8, v_head_dim=6, scale=0.3)
SPECS = {
    "plain": PLAIN,
    "window": AttentionSpec(0, 4, 2, 8, 6, 0.3, sliding_window=3),
    "softcap": AttentionSpec(0, 4, 2, 8, 6, 0.3, softcap=1.5),
    "sinks": AttentionSpec(0, 4, 2, 8, 6, 0.3, has_sinks=True),
    "all at once": AttentionSpec(0, 4, 1, 8, 6, 0.3, 2, 1.5, True),
}
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_tokens(spec: AttentionSpec, count: int, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (count, spec.num_heads, spec.head_dim),
        (count, spec.num_kv_heads, spec.head_dim),
        (count, spec.num_kv_heads, spec.v_head_dim),
    )
    query, key, value = (torch.randn(*shape, generator=generator) for shape in shapes)
    return query, key, value


def by_hand(spec: AttentionSpec, tokens: Tensors, sinks: torch.Tensor | None) -> torch.Tensor:
    """One sequence, query by query, key by key, in Python floats."""
    query, key, value = tokens
    out = torch.zeros(len(query), spec.num_heads, spec.v_head_dim)
    for place in range(len(query)):
        first = 0 if spec.sliding_window is None else max(0, place + 1 - spec.sliding_window)
        for head in range(spec.num_heads):
            kv_head = head * spec.num_kv_heads // spec.num_heads
            weights = []
            for other in range(first, place + 1):
                score = float(query[place, head] @ key[other, kv_head]) * spec.scale
                if spec.softcap is not None:
                    score = spec.softcap * math.tanh(score / spec.softcap)
                weights.append(math.exp(score))
            total = sum(weights) + (0.0 if sinks is None else math.exp(float(sinks[head])))
            for other, weight in zip(range(first, place + 1), weights, strict=True):
                out[place, head] += weight / total * value[other, kv_head]
    return out


def run_paged(
    spec: AttentionSpec,
    sequences: list[Tensors],
    cuts: list[int],
    sinks: torch.Tensor | None,
    block_size: int,
) -> list[torch.Tensor]:
    """All sequences in two steps, each cut at its own place, through one shuffled cache."""
    backend, per_sequence = ReferenceBackend(), 12
    num_blocks = per_sequence * len(sequences)
    cache = backend.allocate(spec, CacheShape(num_blocks, block_size, torch.float32, CPU))
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1)).tolist()
    outputs: list[list[torch.Tensor]] = [[] for _ in sequences]
    for step in range(2):
        pieces, owners = [], []
        for index, (query, _, _) in enumerate(sequences):
            start, stop = (0, cuts[index]) if step == 0 else (cuts[index], len(query))
            if start < stop:
                table = tuple(order[index * per_sequence : (index + 1) * per_sequence])
                pieces.append(Piece(table, start, stop))
                owners.append(index)
        if not pieces:
            continue
        metadata = make_metadata(pieces, block_size, CPU)
        rows = [
            torch.cat([sequences[i][part][p.start : p.stop] for i, p in zip(owners, pieces)])  # noqa: B905
            for part in range(3)
        ]
        backend.prepare(metadata)
        out = backend.forward(rows[0], rows[1], rows[2], cache, spec, metadata, sinks)
        sizes = [piece.stop - piece.start for piece in pieces]
        for index, part in zip(owners, out.split(sizes), strict=True):
            outputs[index].append(part)
    return [torch.cat(parts) for parts in outputs]


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 11), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 16),
    block_size=st.sampled_from([1, 3, 4]),
    data=st.data(),
)
def test_packed_and_chunked_sequences_attend_as_each_alone(
    name: str, lengths: list[int], seed: int, block_size: int, data: st.DataObject
) -> None:
    spec = SPECS[name]
    cuts = [data.draw(st.integers(0, length)) for length in lengths]
    sequences = [random_tokens(spec, length, seed + i) for i, length in enumerate(lengths)]
    sinks = torch.linspace(-1, 1, spec.num_heads) if spec.has_sinks else None
    outputs = run_paged(spec, sequences, cuts, sinks, block_size)
    for output, tokens in zip(outputs, sequences, strict=True):
        torch.testing.assert_close(output, by_hand(spec, tokens, sinks), atol=1e-5, rtol=1e-5)


def test_queries_in_small_chunks_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [random_tokens(PLAIN, length, length) for length in (11, 7)]
    whole = run_paged(PLAIN, sequences, [5, 0], None, 4)
    monkeypatch.setattr(reference, "MAX_SCORES_PER_CHUNK", 1)
    for one, other in zip(whole, run_paged(PLAIN, sequences, [5, 0], None, 4), strict=True):
        torch.testing.assert_close(one, other)


def test_padding_is_neither_written_nor_attended() -> None:
    backend = ReferenceBackend()
    cache = backend.allocate(PLAIN, CacheShape(2, 4, torch.float32, CPU))
    metadata = make_metadata([Piece((1,), 0, 3)], 4, CPU)
    metadata.slot_mapping = torch.cat([metadata.slot_mapping, torch.tensor([-1, -1])])
    query, key, value = random_tokens(PLAIN, 5, 0)
    backend.prepare(metadata)
    out = backend.forward(query, key, value, cache, PLAIN, metadata)
    assert not out[3:].any()
    assert not cache.key[:4].any()
    assert not cache.key[7:].any()
    torch.testing.assert_close(cache.key[4:7], key[:3])


def test_a_step_without_sequences_answers_with_zeros() -> None:
    backend = ReferenceBackend()
    cache = backend.allocate(PLAIN, CacheShape(1, 4, torch.float32, CPU))
    metadata = make_metadata([Piece((0,), 0, 1)], 4, CPU)
    metadata.num_seqs = metadata.num_tokens = 0
    backend.prepare(metadata)
    query, key, value = random_tokens(PLAIN, 1, 0)
    assert not backend.forward(query, key, value, cache, PLAIN, metadata).any()


def test_bytes_per_block_is_what_a_cache_takes() -> None:
    backend = ReferenceBackend()
    cache: ReferenceCache = backend.allocate(PLAIN, CacheShape(5, 16, torch.bfloat16, CPU))
    taken = cache.key.nbytes + cache.value.nbytes
    assert backend.bytes_per_block(PLAIN, 16, torch.bfloat16) * 5 == taken
