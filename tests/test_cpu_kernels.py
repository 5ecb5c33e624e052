"""Promise: each C operator equals PyTorch's, and a machine that cannot compile loses only speed."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from batchgen.engine.attention.cpu.paged import CpuAttention
from batchgen.engine.cpu.int8_linear import Int8Rows, pack_int8
from batchgen.engine.cpu.linear import (
    JoinedLinear,
    JoinedMember,
    PackedLinear,
    equals_linear,
    pack_weight,
)
from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.ops import Operators, Weight, WeightKind

pytestmark = pytest.mark.usefixtures("two_threads")
needs_compiler = pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
DTYPES = [torch.float32, torch.bfloat16]
SLOW_COMPILER = """#!/bin/sh
[ "$1" = --version ] && exec echo slow
while [ "$1" != -o ]; do shift; done
head -c 1000 MADE > "$2" && sleep 0.5 && exec cat MADE > "$2"
"""
OTHER_OPENMP = """
import ctypes, shutil, sys
from batchgen.engine.kernels.build import _openmp_runtime
own = _openmp_runtime()
ctypes.CDLL(shutil.copy(own, sys.argv[1]))
print(own == _openmp_runtime())
"""
LOAD = "from batchgen.engine.kernels.build import load_kernels; print(load_kernels() is not None)"


def operators() -> Operators:
    loaded = Operators.load()
    assert loaded is not None
    return loaded


@needs_compiler
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 1), (47, 5), (48, 64), (100, 33)])
def test_linear_equals_torch_for_every_number_of_rows(
    num_outputs: int, num_inputs: int, with_bias: bool
) -> None:
    weight = torch.randn(num_outputs, num_inputs)
    bias = torch.randn(num_outputs) if with_bias else None
    packed = operators().pack(weight)
    for rows in [*range(1, 20), 239, 240, 241, 490]:
        x = torch.randn(rows, num_inputs)
        got = operators().linear(x, packed, num_outputs, bias)
        torch.testing.assert_close(got, F.linear(x, weight, bias), atol=2e-5, rtol=2e-5)


@needs_compiler
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 32), (47, 64), (48, 704), (100, 96)])
def test_linear_in_bfloat16_rounds_the_sum_of_exact_products(
    num_outputs: int, num_inputs: int
) -> None:
    weight, bias = torch.randn(num_outputs, num_inputs).bfloat16(), torch.randn(num_outputs)
    packed = operators().pack(weight)
    for rows in [*range(1, 20), 79, 81, 241]:
        x = torch.randn(rows, num_inputs).bfloat16()
        expected = F.linear(x.double(), weight.double(), bias.double()).float()
        got = operators().linear(x, packed, num_outputs, bias).float()
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=2**-8)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_answers_bit_for_bit_alike_whatever_rows_come_along(dtype: torch.dtype) -> None:
    weight = torch.randn(96, 224).to(dtype)
    packed = operators().pack(weight)
    x = torch.randn(300, 224).to(dtype)
    whole = operators().linear(x, packed, 96, None)
    for first, last in [(0, 1), (7, 9), (100, 131), (3, 256)]:
        part = operators().linear(x[first:last], packed, 96, None)
        assert torch.equal(part, whole[first:last])


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 16, 40, 577])
def test_silu_mul_equals_torch(dtype: torch.dtype, size: int) -> None:
    x = torch.randn(3, 5, 2 * size).mul(8).to(dtype)
    got = operators().silu_mul(x)
    expected = F.silu(x[..., :size]) * x[..., size:]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5 if dtype.itemsize == 4 else 1e-2)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_equals_torch_on_strided_rows(dtype: torch.dtype) -> None:
    x = torch.randn(7, 3, 50).to(dtype).transpose(0, 1)
    weight = torch.randn(50)
    got = operators().rms_norm(x, weight, 1e-5, False)
    expected = F.rms_norm(x.float(), (50,), weight, 1e-5).to(dtype)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5 if dtype.itemsize == 4 else 1e-2)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_passes_through_every_operator(dtype: torch.dtype) -> None:
    x = torch.randn(2, 40).to(dtype)
    x[1, 3] = float("nan")
    assert operators().silu_mul(x)[1, 3].isnan()
    assert operators().rms_norm(x, torch.ones(40), 1e-5, True)[1].isnan().all()
    angle = torch.ones(1, 2, 40).to(dtype)
    assert operators().rope(x[None, None], angle, angle)[0, 0, 1, 3].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_kernel", [pytest.param(True, marks=needs_compiler), False])
def test_packed_weights_equal_f_linear(
    dtype: torch.dtype, own_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not own_kernel:
        monkeypatch.setattr(Operators, "load", staticmethod(lambda: None))
    weight, bias = torch.randn(70, 64).to(dtype), torch.randn(70).to(dtype)
    packed = pack_weight(weight, bias)
    if packed is None:  # only F.linear does it on such a processor
        assert dtype == torch.bfloat16
        assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return
    x = torch.randn(2, 9, 64).to(dtype)
    bound = 2e-5 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(packed(x), F.linear(x, weight, bias), atol=bound, rtol=bound)


def test_a_function_that_answers_wrongly_is_not_taken_for_equal() -> None:
    weight = torch.randn(8, 16)
    assert equals_linear(lambda x: x @ weight.t(), weight, None)
    assert not equals_linear(lambda x: x @ weight.t() * 1.001, weight, None)
    assert not equals_linear(lambda x: x @ weight.t() * float("nan"), weight, None)


def test_joined_layers_give_each_member_its_own_output() -> None:
    weight = torch.randn(9, 4)
    joined = JoinedLinear(lambda x: x @ weight.t(), [2, 3, 4])
    members = [JoinedMember(joined, i) for i in range(3)]
    parts = weight.split([2, 3, 4])
    for x in (torch.randn(5, 4), torch.randn(5, 4)):
        for member, part in zip(members, parts, strict=True):
            torch.testing.assert_close(member(x), x @ part.t())
    first, second = torch.randn(1, 4), torch.randn(1, 4)
    torch.testing.assert_close(members[0](first), first @ parts[0].t())
    torch.testing.assert_close(members[1](second), second @ parts[1].t())
    torch.testing.assert_close(members[1](first), first @ parts[1].t())
    torch.testing.assert_close(members[1](first), first @ parts[1].t())


def int8_kernel() -> Operators:
    if not operators().can_pack_int8(1):
        pytest.skip("no 8-bit product here")
    return operators()


def in_whole_numbers(x: torch.Tensor) -> torch.Tensor:
    """What rows are to the kernel (levels.h): in groups of inputs, 255 levels from the least value
    (or nought) to the largest; without groups, as large as their products with 127 allow."""
    x, group = x.float(), int8_kernel().int8_group
    if not group:
        limit = min((2**31 - 1) // 127 // (x.shape[1] + x.shape[1] % 2), 32767)
        top = x.abs().amax(1, keepdim=True)
        inverse = torch.where(top > 1e-30, torch.full_like(top, limit) / top, 0.0)
        levels = (x.double() * inverse.double()).round()  # one rounding, as with FMA
        return levels * torch.where(top > 1e-30, top / limit, 0.0)
    groups = F.pad(x, (0, -x.shape[1] % group)).unflatten(1, (-1, group))
    least, most = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True)
    scale = (most.clamp(min=0) - least) / 255
    inverse = torch.where(scale > 1e-30, 1 / scale, 0.0)
    zero = (-least * inverse).round()
    codes = ((groups * inverse).round() + zero).clamp(max=255) - zero
    return (codes * scale).flatten(1)[:, : x.shape[1]].double()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 1), (47, 5), (33, 700), (16, 4099)])
def test_the_eight_bit_product_is_exact_in_whole_numbers_for_every_number_of_rows(
    num_outputs: int, num_inputs: int, dtype: torch.dtype
) -> None:
    levels = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8)
    levels[0] = 127
    scale, bias = torch.rand(num_outputs), torch.randn(num_outputs)
    packed = int8_kernel().pack_int8(levels)
    pointers = (packed.data_ptr(), scale.data_ptr(), bias.data_ptr())
    for rows in [*range(1, 9), 13, 239, 241, 490]:
        x = torch.randn(rows, num_inputs).to(dtype)
        x[0] = 3.0  # with the first output: the largest sum there is
        x[-1] = 0.0
        x[rows // 2] = x[rows // 2].abs()
        weight = levels.double() * scale[:, None].double()
        expected = F.linear(in_whole_numbers(x), weight, bias.double()).float()
        got = int8_kernel().int8_linear(x, Weight(*pointers, WeightKind.INT8), num_outputs)
        bound = 1e-6 if dtype == torch.float32 else 4e-3
        torch.testing.assert_close(
            got.float(), expected, atol=2e-7 * float(expected.abs().max()), rtol=bound
        )


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_eight_bits_scale_each_row_by_itself(dtype: torch.dtype) -> None:
    weight = torch.randn(32, 128).to(dtype)
    packed = pack_int8(weight, None)
    if packed is None:
        pytest.skip("no 8-bit product here")
    x = torch.randn(6, 128).to(dtype)
    x[0] *= 1000
    x[1] = 0
    got, expected = packed(x).float(), F.linear(x, weight).float()
    error = (got - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-9)
    assert error[1] == 0
    assert (error < 0.02).all()
    assert torch.equal(packed(x[2:3]), packed(x)[2:3])
    x[3, 5], x[4, 5] = float("nan"), float("inf")
    assert packed(x)[3:5].isnan().all()
    assert torch.equal(packed(x)[2], packed(x[2:3])[0])


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_in_eight_bits_is_the_weight_but_for_half_a_level(dtype: torch.dtype) -> None:
    int8_kernel()
    weight = torch.randn(77, 33).to(dtype)
    packed = pack_int8(weight, None)
    assert isinstance(packed, PackedLinear)
    rows = Int8Rows(packed, dtype)
    ids = torch.tensor([[0, 76, 5], [15, 16, 17]])
    level = weight.float().abs().amax(1)[ids] / 127
    slack = 0.5 if dtype == torch.float32 else 1.0  # and a rounding to bfloat16
    assert ((rows(ids) - weight[ids]).float().abs() <= level[..., None] * slack + 1e-6).all()
    assert rows.equals(weight)
    assert not rows.equals(weight * 1.1)


def test_turned_off_kernels_leave_torch_and_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BATCHGEN_CPU_KERNEL", "0")
    with caplog.at_level(logging.INFO, logger="batchgen"):
        assert load_kernels.__wrapped__() is None
    assert len(caplog.records) == 1
    assert CpuAttention(use_kernel=False).name == "cpu"


def test_a_machine_without_compiler_leaves_torch_and_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with caplog.at_level(logging.INFO, logger="batchgen"):
        assert load_kernels.__wrapped__() is None
    assert "no C compiler" in caplog.text
    assert len(caplog.records) == 1


@needs_compiler
def test_processes_that_compile_at_once_all_get_the_library(tmp_path: Path) -> None:
    """The compiler takes its time, and what comes of it is the library that this process has."""
    made = load_kernels()
    assert made is not None
    compiler = tmp_path / "cc"
    compiler.write_text(SLOW_COMPILER.replace("MADE", shlex.quote(made._name)))
    compiler.chmod(0o755)
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CC": str(compiler)}
    started = [
        subprocess.Popen([sys.executable, "-c", LOAD], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[0].strip() for process in started] == ["True"] * 2
    assert len(list((tmp_path / "batchgen").glob("*.so"))) == 1
    assert [path.suffix for path in (tmp_path / "batchgen").iterdir()] == [".so"]


@needs_compiler
def test_threads_are_shared_with_torch_whatever_other_packages_bring(tmp_path: Path) -> None:
    """The copy is loaded last: its addresses come first."""
    command = [sys.executable, "-c", OTHER_OPENMP, str(tmp_path / "libgomp-other.so.1")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "True"
