"""Products of 4-bit weights on Hopper: cut to fit its cores, compiled without one at hand so that
they overlap, equal to their definition where there is one."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
import torch
from triton_interpreter import INTERPRETED

from batchgen.engine.quantization.integers import round_to_integers
from batchgen.engine.quantization.packing import pack_codes, pack_steps
from batchgen.engine.quantization.tiles import Tile, hopper_tile

pytest.importorskip("triton.experimental.gluon", reason="this Triton has no Gluon")

TILES = [hopper_tile(16, 28672, 4096), hopper_tile(32, 28672, 4096), hopper_tile(64, 28672, 4096)]
TILES += [hopper_tile(128, 28672, 4096), hopper_tile(256, 28672, 4096)]


@pytest.mark.parametrize("outputs", [1, 1024, 6144, 28672])
@pytest.mark.parametrize("rows", [1, 16, 33, 64, 129, 256, 384, 5000])
def test_a_tile_has_room_and_each_of_its_parts_has_work(rows: int, outputs: int) -> None:
    for inputs in (128, 640, 4096, 28672):
        tile = hopper_tile(rows, outputs, inputs)
        step = 256 * tile.rows + 64 * tile.outputs  # bytes of x and of words
        sums = 32 * 128 + 256  # what the way out needs, and barriers
        assert (tile.num_stages * step + sums) * tile.per_core + (1024 * tile.per_core) <= 228 << 10
        assert 1 <= tile.splits <= max(1, inputs // 512)
        assert tile.rows < 2 * max(rows, 16), "half of it would be empty"


def test_each_tile_is_some_products() -> None:
    assert [tile.rows for tile in TILES] == [16, 32, 64, 128, 256]
    assert hopper_tile(64, 4096, 14336).splits > 1, "few outputs: the inputs are shared out"


COMPILED = """
import subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from batchgen.engine.quantization import integer_hopper as own

rows, outputs, stages, warps, per_core, dtype, kept, group = eval(sys.argv[1])
types = {
    "x": f"tensordesc<{dtype}[{rows}, 64],{own._X_LAYOUT!r}>",
    "packed": f"tensordesc<i16[{outputs}, 32],{own._WORDS_LAYOUT!r}>",
    "steps": "*i32", "out": "*" + kept,
}
types |= dict.fromkeys(
    ("num_rows", "num_outputs", "num_inputs", "split_steps", "stride", "num_tiles"), "i32"
)
fixed = {"GROUP": group, "RUN": 32, "BLOCK_M": rows, "BLOCK_N": outputs, "STAGES": stages}
source = GluonASTSource(
    own._multiply_kernel, types | dict.fromkeys(fixed, "constexpr"), constexprs=fixed
)
options = own.launch_options(warps, per_core)
made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
    file.write(made.asm["cubin"])
    file.flush()
    call = [triton.knobs.nvidia.cuobjdump.path, "-sass", file.name]
    listing = subprocess.run(call, capture_output=True, text=True, check=True).stdout
print("shared", made.metadata.shared)
print(listing)
"""


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("tile", "kinds"),
    [(TILES[2], ("fp16", "fp32", 32)), (TILES[4], ("bf16", "bf16", 128))],
    ids=["64 rows", "256 rows"],
)
def test_its_products_overlap_and_nothing_is_spilled(
    tile: Tile, kinds: tuple[str, str, int]
) -> None:
    asked = (tile.rows, tile.outputs, tile.num_stages, tile.num_warps, tile.per_core, *kinds)
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, repr(asked)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sass = done.stdout[done.stdout.index("shared") :]
    assert not re.search("LDL|STL", sass), "registers are spilled"
    assert sass.count("DEPBAR") == 3, "ptxas waits for each product"
    assert (int(sass.split()[1]) + 1024) * tile.per_core <= 228 << 10
    code = [found.groups() for found in map(INSTRUCTION.match, sass.splitlines()) if found]
    loop = shortest_loop(code, "HGMMA")
    assert sum(name.startswith("HGMMA") for _, name, _ in loop) >= 8
    assert written_in_flight(loop) == []


INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?(\S+)\s*(.*?)\s*;")
Code = list[tuple[str, str, str]]  # address, name, operands


def shortest_loop(code: Code, name: str) -> Code:
    """In which an instruction of that name is."""
    addresses = [int(address, 16) for address, _, _ in code]
    found: list[Code] = []
    for end, (_, jump, operands) in enumerate(code):
        target = re.search("0x([0-9a-f]+)", operands)
        if jump == "BRA" and target is not None and int(target[1], 16) in addresses[:end]:
            found.append(code[addresses.index(int(target[1], 16)) : end + 1])
    return min((loop for loop in found if any(one[1].startswith(name) for one in loop)), key=len)


def written_in_flight(loop: Code) -> list[tuple[str, str, str]]:
    """Instructions that write a register from which a product that still runs takes its left side:
    ptxas leaves that to who writes the waits."""
    wrong: list[tuple[str, str, str]] = []
    running: list[set[int]] = []
    issued: set[int] = set()
    for instruction in loop * 2:
        _, name, operands = instruction
        registers = re.findall(r"\bR(\d+)", operands)
        if name.startswith("HGMMA"):
            issued |= set(range(int(registers[1]), int(registers[1]) + 4))
            if "gsb0" in operands:  # the end of a group
                running.append(issued)
                issued = set()
        elif "DEPBAR" in name:
            left = int(operands.split(",")[-1], 16)
            running = running[-left:] if left else []
        elif re.match(r"R\d", operands) and not name.startswith(("ST", "RED", "ATOM", "BAR")):
            wide = {"4": 4, "128": 4, "2": 2, "64": 2, "WIDE": 2}.get(name.split(".")[-1], 1)
            wide = max(wide, 2 if "WIDE" in name else 1)
            first = int(registers[0])
            if set(range(first, first + wide)) & issued.union(*running):
                wrong.append(instruction)
    return wrong


def test_a_write_to_a_register_in_flight_is_found() -> None:
    product = ("0", "HGMMA.64x64x16.F32.BF16", "R24, R40, gdesc[UR8], R24, gsb0")
    wait = ("10", "WARPGROUP.DEPBAR.LE", "gsb0, 0x1")
    write, other = ("20", "LDSM.16.M88.4", "R41, [R3]"), ("30", "IADD3", "R48, R41, R2, RZ")
    assert written_in_flight([product, other, wait]) == []
    assert written_in_flight([product, wait, write]) == [write] * 2
    assert written_in_flight([write, product, ("10", wait[1], "gsb0, 0x0")]) == []


def test_without_gluon_the_others_product_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from batchgen.engine.quantization import integer_kernel

    integer_kernel.hopper_kernel.cache_clear()
    monkeypatch.delitem(sys.modules, "batchgen.engine.quantization.integer_hopper", raising=False)
    monkeypatch.setitem(sys.modules, "triton.experimental.gluon", None)
    with caplog.at_level(logging.INFO):
        assert integer_kernel.hopper_kernel() is None
        assert integer_kernel.hopper_kernel() is None
    assert len(caplog.records) == 1
    integer_kernel.hopper_kernel.cache_clear()


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("group", [32, 64, 128, 384])
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.rows} rows")
def test_a_product_is_what_its_definition_says(tile: Tile, group: int, dtype: torch.dtype) -> None:
    from dataclasses import replace

    from batchgen.engine.quantization.integer_hopper import multiply_on_hopper

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    draw = torch.Generator("cuda").manual_seed(0)
    for outputs, inputs in ((333, 1152), (512, 768), (17_000, 384)):  # more tiles than cores
        weight = torch.randn(outputs, inputs, generator=draw, device="cuda", dtype=dtype) * 0.1
        codes = round_to_integers(weight, group)
        packed, steps = pack_codes(codes.codes, 32), pack_steps(codes.scales, codes.zeros, dtype)
        dense = codes.dense(dtype).float()
        for rows in (1, 17, tile.rows, tile.rows + 1, 300):
            x = torch.randn(rows, inputs, generator=draw, device="cuda", dtype=dtype)
            wanted = x.float() @ dense.T
            for splits in (1, 3):
                ours = multiply_on_hopper(x, packed, steps, replace(tile, splits=splits)).float()
                assert float((ours - wanted).abs().max() / wanted.abs().max()) < 6e-3
