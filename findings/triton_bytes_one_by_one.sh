#!/usr/bin/env bash
# A Triton product whose right side is kept in bytes (float8) and summed across memory.
#
# Tensor cores take the numbers that they sum over side by side. triton 3.9.0 turns 16-bit tiles that lie the
# other way on their way from shared memory (ldmatrix.trans), which costs nothing. For bytes there is no such
# instruction, and nothing says so: each byte is loaded alone, 64 loads a thread for a tile of 64 x 128 that
# four ldmatrix read where the bytes lie along the sum. Attention's values are the common case: keys are
# summed along a head, values across the tokens. Compiled for a GPU of capability 9.0; no GPU is needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q triton==3.9.0
cat > "$work/product.py" <<'PY'
import re
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def multiply(weights, values, out, count, ALONG: tl.constexpr):
    rows, tokens, dims = tl.arange(0, 16), tl.arange(0, 64), tl.arange(0, 128)
    p = tl.load(weights + rows[:, None] * 64 + tokens[None, :])
    total = tl.zeros([16, 128], tl.float32)
    for step in range(count):
        tile = values + step * 8192
        if ALONG:
            v = tl.trans(tl.load(tile + dims[:, None] * 64 + tokens[None, :]))
        else:
            v = tl.load(tile + tokens[:, None] * 128 + dims[None, :])
        total = tl.dot(p, v.to(tl.float16), total)
    tl.store(out + rows[:, None] * 128 + dims[None, :], total)


def loads(kind, along):
    """Loads from shared memory in the compiled program, by name."""
    names = {"weights": "*fp16", "values": "*" + kind, "out": "*fp32", "count": "i32"}
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(3)}
    source = ASTSource(multiply, names | {"ALONG": "constexpr"}, {(4,): along}, aligned)
    options = {"num_warps": 4, "num_stages": 3}
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    found = re.findall(r"ldmatrix\S*|ld\.shared\S*", ptx)
    return {name: found.count(name) for name in sorted(set(found))}


print("triton", triton.__version__)
seen = {}
for kind in ("fp16", "fp8e4nv"):
    for along in (False, True):
        seen[kind, along] = loads(kind, along)
        print(f"{kind:8} summed {'along' if along else 'across'} memory:", seen[kind, along])
single = {key: found.get("ld.shared.b8", 0) for key, found in seen.items()}
turned = [key for key, found in seen.items() if any("trans" in name for name in found)]
sys.exit(
    single != {("fp16", False): 0, ("fp16", True): 0, ("fp8e4nv", False): 64, ("fp8e4nv", True): 0}
    or turned != [("fp16", False)]
)
PY
HOME="$work" TRITON_CACHE_DIR="$work/cache" "$work/venv/bin/python" -W ignore "$work/product.py"
