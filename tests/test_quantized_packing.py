"""4-bit weights lie in words as tensor cores load them; products are cut to fit a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from batchgen.engine.quantization.packing import (
    pack_codes,
    pack_steps,
    run_of,
    unpack_codes,
    unpack_steps,
)
from batchgen.engine.quantization.tiles import (
    Tile,
    block_tile,
    fitted,
    float8_tile,
    integer_tile,
    prefers_tiles,
)


def test_codes_come_out_of_words_as_they_went_in() -> None:
    codes = torch.randint(0, 16, (5, 192), dtype=torch.uint8)
    assert torch.equal(unpack_codes(pack_codes(codes, 16), 16), codes)
    wide = codes[:, :128].contiguous()
    assert torch.equal(unpack_codes(pack_codes(wide, 32), 32), wide)
    assert run_of(192, 64) == 16  # six runs of 32 are no fours
    assert run_of(4096, 128) == 32
    assert run_of(4096, 48) == 16
    assert run_of(96, 32) is None
    assert run_of(40, 8) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_and_zero_points_come_out_of_words_as_they_went_in(dtype: torch.dtype) -> None:
    scales, zeros = torch.rand(3, 16).to(dtype), torch.arange(48).view(3, 16).byte() % 16
    steps = pack_steps(scales, zeros, dtype)
    assert steps.nbytes == 3 * 16 * 4
    found = unpack_steps(steps[:, 4:9], dtype)
    assert torch.equal(found[0], scales[:, 4:9])
    assert torch.equal(found[1], zeros[:, 4:9])


@pytest.mark.parametrize("outputs", [16, 1024, 4096, 28672, 57344])
@pytest.mark.parametrize("rows", [1, 16, 33, 64, 129, 256, 300, 5000])
def test_a_product_is_cut_into_parts_that_a_gpu_has_room_for(rows: int, outputs: int) -> None:
    for inputs in (128, 4096, 28672):
        for tile in (float8_tile(rows, outputs, inputs), block_tile(rows, outputs, inputs)):
            assert tile.num_stages * 128 * (tile.rows + tile.outputs) <= 227 << 10
            assert 1 <= tile.splits <= max(1, inputs // 1024)
            assert tile.rows >= 16
    assert 1 <= integer_tile(rows, outputs).splits <= 8
    assert 128 % block_tile(rows, outputs, 4096).outputs == 0, "a block has one scale"
    assert prefers_tiles(rows, outputs, blocks=False) or rows > 64
    assert not prefers_tiles(300, outputs, blocks=False)


def test_a_smaller_gpu_keeps_fewer_steps_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SimpleNamespace(
        shared_memory_per_block=48 << 10, shared_memory_per_block_optin=99 << 10
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: small)
    tile = Tile(64, 128, 1, 8, 6)
    assert fitted(tile, 128 * 192, torch.device("cuda")).num_stages == 4
    assert fitted(tile, 128 * 192, torch.device("cpu")) == tile
