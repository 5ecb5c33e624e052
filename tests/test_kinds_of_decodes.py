"""A step's decodes are launched by the tile of their kind, as its plan is made; needs no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: there is no GPU path")

from batchgen.engine.attention.interface import (
    MAX_SHARED_ITEMS,
    ROW_WORDS,
    SHARED_WORDS,
    AttentionMetadata,
    AttentionSpec,
    CacheShape,
    SharedReads,
)
from batchgen.engine.attention.triton.launches import Launches
from batchgen.engine.attention.triton.paged import TritonBackend, shared_tiles
from batchgen.engine.attention.triton.tuning import MANY_SEQUENCES, Decodes
from batchgen.engine.steady.cuda.attention import steady_attention

SPEC = AttentionSpec(0, 16, 8, 64, 64, 0.125)
SHAPE = CacheShape(2, 64, torch.bfloat16, torch.device("cpu"))


def step(num_seqs: int, most_tokens: int = 1, *, shared: bool = False) -> AttentionMetadata:
    """Of a bucket of so many sequences."""
    sizes = ((MAX_SHARED_ITEMS, SHARED_WORDS), (2 * num_seqs,), (num_seqs, ROW_WORDS))
    reads = SharedReads(*(torch.zeros(size, dtype=torch.int32) for size in sizes))
    return AttentionMetadata(
        cu_seqlens_q=torch.zeros(num_seqs + 1, dtype=torch.int32),
        seq_lens=torch.zeros(num_seqs, dtype=torch.int32),
        block_tables=torch.zeros((num_seqs, 1), dtype=torch.int32),
        slot_mapping=torch.zeros(num_seqs * most_tokens),
        block_size=SHAPE.block_size,
        num_seqs=1,  # of the step itself, which changes from one replay of a graph to the next
        num_tokens=num_seqs * most_tokens,
        max_seqlen_q=most_tokens,
        max_seqlen_k=64,
        shared=reads if shared else None,
    )


def launches_of(backend: TritonBackend, spec: AttentionSpec) -> Launches:
    return backend.launches(spec, backend.allocate(spec, SHAPE))


def kind(launches: Launches, metadata: AttentionMetadata) -> Decodes:
    needed, _ = launches.needed(metadata)
    return next(kind for kind, launch in launches.decodes.items() if launch is needed)


def test_decodes_are_few_many_or_what_is_left_of_shared_keys() -> None:
    launches = launches_of(TritonBackend(), SPEC)
    assert len({launch.tile for launch in launches.decodes.values()}) == len(Decodes)
    assert kind(launches, step(1)) is Decodes.FEW
    assert kind(launches, step(MANY_SEQUENCES - 1)) is Decodes.FEW
    assert kind(launches, step(MANY_SEQUENCES)) is Decodes.MANY
    assert kind(launches, step(4, shared=True)) is Decodes.REST
    assert kind(launches, step(MANY_SEQUENCES, shared=True)) is Decodes.REST


def test_layers_with_a_window_read_their_own_keys_beside_others_that_share() -> None:
    launches = launches_of(TritonBackend(), replace(SPEC, sliding_window=99))
    assert kind(launches, step(4, shared=True)) is Decodes.FEW
    assert kind(launches, step(MANY_SEQUENCES, shared=True)) is Decodes.MANY


def test_each_sequence_is_a_decode_or_a_chunk_whatever_the_kind() -> None:
    for group in (1, 2, 7, 16, 71):
        spec = replace(SPEC, num_heads=8 * group)
        for backend in (TritonBackend(), steady_attention()):
            launches = launches_of(backend, spec)
            chunks = launches.chunks.key
            rows = {launch.key.max_rows for launch in launches.decodes.values()}
            assert rows == {chunks.min_rows}
            assert chunks.max_rows is None
            for metadata in (step(4, 1), step(4, 8), step(4, 64), step(300, 2)):
                _, found = launches.needed(metadata)
                more = metadata.max_seqlen_q * group > chunks.min_rows
                assert found is (launches.chunks if more else None)


def test_a_deterministic_run_has_one_tile_for_all_decodes() -> None:
    backend = steady_attention()
    launches = launches_of(backend, SPEC)
    assert len({launch.tile for launch in launches.decodes.values()}) == 1
    assert launches.chunks.tile == launches.decodes[Decodes.FEW].tile
    assert backend.sharing([SPEC], SHAPE.dtype, SHAPE.block_size, SHAPE.device) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_workspace_has_room_for_every_launch(head_dim: int, dtype: torch.dtype) -> None:
    backend = TritonBackend()
    spec = replace(SPEC, head_dim=head_dim, v_head_dim=head_dim)
    cache = backend.allocate(spec, replace(SHAPE, dtype=dtype))
    shape = backend.sharing([spec], dtype, SHAPE.block_size, SHAPE.device)
    space = backend.workspace(SHAPE.device)
    assert shape is not None
    for launch in backend.launches(spec, cache).decodes.values():
        key = launch.key
        rows = 2 * key.items_per_head * key.num_kv_heads * key.block_m
        assert space.acc.numel() >= rows * head_dim
        assert space.stats.numel() >= 2 * rows
    few, group = shared_tiles(spec, cache)
    assert shape.members * 2 <= max(few.block_m, group.block_m)
    rows = shape.max_items * spec.num_kv_heads * group.block_m
    assert space.shared_acc.numel() >= rows * head_dim
    assert space.shared_stats.numel() >= 2 * rows
