#!/usr/bin/env bash
# A product of two float8 tiles of 16 rows is multiplied in float16 on Hopper, and in float8 on GPUs before and after.
#
# tl.dot of float8e4nv with float8e4nv says nothing of it: compiled by triton 3.9.0 for capability 9.0, 64 rows
# become wgmma in e4m3, but 16 rows are turned into float16 value by value and multiplied by mma of float16; the
# same kernel for 8.9 and 12.0 multiplies e4m3 itself. So a kernel for few rows (decode, small batches) that was
# written to gain from float8 converts every weight or key first, and its operands round no less than before.
# No GPU is needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q triton==3.9.0
cat > "$work/product.py" <<'PY'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

print("triton", triton.__version__)


@triton.jit
def multiply(x, weight, out, count, ROWS: tl.constexpr):
    rows, inputs, outputs = tl.arange(0, ROWS), tl.arange(0, 128), tl.arange(0, 64)
    total = tl.zeros([ROWS, 64], tl.float32)
    for step in range(count):
        a = tl.load(x + rows[:, None] * 4096 + step * 128 + inputs[None, :])
        b = tl.load(weight + outputs[None, :] * 4096 + step * 128 + inputs[:, None])
        total = tl.dot(a, b, total)
    tl.store(out + rows[:, None] * 64 + outputs[None, :], total)


def products(rows, capability):
    """Kinds of the tensor cores' instructions in the compiled kernel."""
    kinds = {"x": "*fp8e4nv", "weight": "*fp8e4nv", "out": "*fp32", "count": "i32", "ROWS": "constexpr"}
    source = ASTSource(
        multiply, kinds, {(4,): rows}, {(i,): [["tt.divisibility", 16]] for i in range(3)}
    )
    ptx = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}
    ).asm["ptx"]
    found = set(re.findall(r"((?:wg)?mma)\S*\.(e4m3|f16)\.(?:e4m3|f16)", ptx))
    return found, "cvt.rn.f16x2.e4m3x2" in ptx


seen = {}
for capability in (89, 90, 120):
    for rows in (16, 64):
        seen[capability, rows] = products(rows, capability)
        print(f"capability {capability / 10}, {rows} rows: {seen[capability, rows][0]}, "
              f"converts to float16: {seen[capability, rows][1]}")
assert seen[90, 16] == ({("mma", "f16")}, True)
assert seen[90, 64] == ({("wgmma", "e4m3")}, False)
for other in (89, 120):
    assert seen[other, 16] == ({("mma", "e4m3")}, False)
print("expected: float8 operands multiplied in float8; seen: in float16 for 16 rows on capability 9.0")
PY
"$work/venv/bin/python" "$work/product.py"
