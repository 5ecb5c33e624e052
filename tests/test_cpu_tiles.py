"""Promise: on matrix tiles (AMX) products are those of other processors: in 8 bits bit for bit.

Here tiles are plain C (kernels/amx.h), as few machines have them: what is checked is everything but
the processor's own instructions.
"""

from __future__ import annotations

import ctypes
import logging
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from torch.nn import functional as F

from batchgen.engine.cpu.int8_linear import pack_int8
from batchgen.engine.cpu.linear import PackedLinear
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.cpu.stack import bind_stack
from batchgen.engine.kernels.build import KERNEL_FLAGS, KERNEL_SOURCES, SOURCE_FOLDER
from batchgen.engine.kernels.ops import Operators, WeightKind
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof_logits import each_logits
from batchgen.engine.run.loader import load_model_from
from batchgen.startup.compiler import find_compiler

ROWS = (1, 7, 8, 13, 16, 31, 64, 75, 250)
COMPILER = find_compiler()
CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
pytestmark = [
    pytest.mark.usefixtures("two_threads"),
    pytest.mark.skipif(COMPILER is None, reason="no C compiler"),
    pytest.mark.skipif(
        not {"avx512_bf16", "avx512_vnni"} <= {*CPU.split()}, reason="no AVX-512 BF16 and VNNI"
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Operators:
    library = tmp_path_factory.mktemp("tiles") / "tiles.so"
    sources = [str(SOURCE_FOLDER / name) for name in KERNEL_SOURCES]
    flags = [*KERNEL_FLAGS, "-O1", "-march=native", "-DTILES_IN_C", "-shared"]
    subprocess.run([str(COMPILER), *flags, *sources, "-lm", "-o", str(library)], check=True)
    return Operators(ctypes.CDLL(str(library)))


@pytest.fixture
def tiled(built: Operators, monkeypatch: pytest.MonkeyPatch) -> Operators:
    """The operators of a machine with tiles, for the whole process."""
    assert built.has_int8_tiles
    monkeypatch.setattr(Operators, "load", staticmethod(lambda: built))
    return built


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 1), (107, 84), (96, 576), (50, 1500)])
def test_rows_in_eight_bits_have_the_same_bits_with_tiles_and_without(
    num_outputs: int, num_inputs: int, dtype: torch.dtype, tiled: Operators
) -> None:
    weight, bias = torch.randn(num_outputs, num_inputs).to(dtype), torch.randn(num_outputs)
    packed = pack_int8(weight, bias.to(dtype))
    assert isinstance(packed, PackedLinear)
    assert packed.kind == WeightKind.INT8
    for rows in ROWS:
        x = torch.randn(rows, num_inputs).to(dtype)
        x[rows // 2] = float("nan")
        found = []
        for tiles in (False, True):
            tiled.use_int8_tiles(tiles)
            found.append(packed(x).nan_to_num(1e30))
        assert torch.equal(*found)


def test_what_is_faster_is_measured_before_the_first_layer(
    tiled: Operators, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="batchgen"):
        assert pack_int8(torch.randn(48, 64), None) is not None
        assert pack_int8(torch.randn(48, 64), None) is not None
    assert len([one for one in caplog.messages if "on tiles" in one]) <= 1


@pytest.mark.parametrize("num_outputs", [1, 37, 64])
def test_bfloat16_on_tiles_equals_torch(num_outputs: int, tiled: Operators) -> None:
    weight = torch.randn(num_outputs, 96).bfloat16()
    packed = tiled.pack(weight)
    assert tiled.kind_of(torch.bfloat16) == WeightKind.TILES
    for rows in ROWS:
        x = torch.randn(rows, 96).bfloat16()
        got = tiled.linear(x, packed, num_outputs, None)
        torch.testing.assert_close(got, F.linear(x, weight), atol=6e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_eight_bits_runs_as_one_and_says_the_same_with_tiles(
    dtype: torch.dtype, tiled: Operators
) -> None:
    optimize = partial(optimize_for_cpu, dtype=dtype, quantization="int8")
    model = load_model_from(tiny_model("llama").to(dtype), optimize=optimize, confirmed=False)
    tiled.use_int8_tiles(False)
    assert bind_stack(model)
    assert all(map(torch.equal, logits(model, tiled, tiles=True), logits(model, tiled)))


def logits(model: Model, operators: Operators, *, tiles: bool = False) -> list[torch.Tensor]:
    operators.use_int8_tiles(tiles)
    return [one.clone() for one in each_logits(model, 8)]
