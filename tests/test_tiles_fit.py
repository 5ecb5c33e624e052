"""The attention kernel fits the shared memory of GPUs other than the one it was tuned on: compiled
for them, which needs none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: there is no GPU path")

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler
from triton.compiler import ASTSource

from batchgen.engine.attention.interface import AttentionSpec
from batchgen.engine.attention.triton.kernels import attention_kernel
from batchgen.engine.attention.triton.launches import constants
from batchgen.engine.attention.triton.tuning import (
    Tile,
    chunk_tile,
    decode_tile,
    few_tile,
    fitted,
    group_tile,
)

KIB = 1024
ROOM = {75: 64 * KIB, 80: 163 * KIB, 86: 99 * KIB, 90: 227 * KIB}
"""Bytes that a block of threads may have, by compute capability: T4, A100, RTX 3090, H100."""
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


class Known(Exception):
    """Raised once the compiler has laid out shared memory: what is left takes most of its time."""


@pytest.fixture
def _short_compilation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(module: Any, _: Any) -> None:
        raise Known(module.get_int_attr("ttg.shared"))

    monkeypatch.setattr(compiler.llvm, "to_module", stop)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # what is found there is not compiled


def shared_memory(tile: Tile, spec: AttentionSpec, dtype: torch.dtype, capability: int) -> int:
    """Bytes that the compiled kernel asks for."""
    shared = constants(spec, 64, tile, dtype)
    values = {
        **{name: value for name, value in shared.items() if name.isupper()},
        "GROUP": spec.num_heads // spec.num_kv_heads,
        "ONE_LOOP": tile.one_loop,
        **dict.fromkeys(("HAS_WINDOW", "HAS_SINKS", "RETURN_LSE"), False),
        **dict.fromkeys(("TMA", "WRITE"), False),
        "SHARED_M": 0,
    }
    tensors = ("query", "key", "value", "out", "lse", "sinks", "k_cache", "v_cache")
    types = {
        **dict.fromkeys((*tensors, "k_tiles", "v_tiles"), f"*{NAMES[dtype]}"),
        **dict.fromkeys(("items", "counters", "block_tables", "slot_mapping"), "*i32"),
        **dict.fromkeys(("part_acc", "part_stats", "shared_acc", "shared_stats"), "*fp32"),
        "shared_rows": "*i32",
        **dict.fromkeys(("scale", "softcap"), "fp32"),
        **dict.fromkeys(values, "constexpr"),
    }
    names = attention_kernel.arg_names
    divisible = [i for i, name in enumerate(names) if types.get(name, "i32")[0] in "*i"]
    source = ASTSource(
        attention_kernel,
        {name: types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in values.items()},
        {(i,): [["tt.divisibility", 16]] for i in divisible},
    )
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    with pytest.raises(Known) as known:
        triton.compile(source, target=target, options=options)
    return int(known.value.args[0])


@pytest.mark.usefixtures("_short_compilation")
@pytest.mark.parametrize(
    ("capability", "head_dim", "dtype"),
    [
        (75, 256, torch.float16),
        (75, 256, torch.float32),
        (80, 512, torch.bfloat16),
        (86, 64, torch.bfloat16),
        (86, 256, torch.bfloat16),
        (90, 512, torch.bfloat16),
    ],
)
def test_tiles_fit_the_shared_memory_of_other_gpus(
    capability: int, head_dim: int, dtype: torch.dtype
) -> None:
    spec = AttentionSpec(0, 16, 8, head_dim, head_dim, 0.1)
    for tuner in (decode_tile, chunk_tile):
        tile = fitted(tuner(spec, dtype, 64, torch.device("cpu")), spec, dtype, ROOM[capability])
        assert shared_memory(tile, spec, dtype, capability) <= ROOM[capability], tile


def test_tiles_are_as_measured_where_they_fit() -> None:
    for head_dim in (64, 128, 256):
        spec = AttentionSpec(0, 16, 8, head_dim, head_dim, 0.1)
        for dtype in (torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            for tuner in (decode_tile, few_tile, group_tile, chunk_tile):
                tile = tuner(spec, dtype, 64, torch.device("cpu"))
                assert fitted(tile, spec, dtype, ROOM[90]) == tile
