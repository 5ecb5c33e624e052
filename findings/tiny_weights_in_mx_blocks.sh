#!/usr/bin/env bash
# Blocks of 32 weights that are nearly zero, as rows of an embedding have whose tokens never came up in
# training, in microscaling formats: MXFP8 and MXFP4, whose scale is a power of two down to 2^-127.
#
# Seen with mlx 0.32.4 on CPUs, gguf 0.19.0:
#   mlx's `quantize` wraps round below its smallest scale: 1e-36 in MXFP8, a normal number of bf16 as
#   of fp32, comes back as infinity, and 1e-38 in MXFP4 too; 1e-39 comes back as 1.3e38. So do not 0
#   and 1e-30, which are right, nor its own "affine" and "nvfp4", which make 0 of all of these. gguf's
#   MXFP4 makes 0 of what is too small. Nothing warns.
# So a model that was quantised without an error has rows of infinity where nothing was, and gives NaN
# for the one prompt in which such a token occurs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "mlx[cpu]==0.32.4" gguf==0.19.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version
from math import inf

import gguf
import mlx.core as mx
import numpy as np

WEIGHTS = [0.0, 1e-30, 1e-36, 1e-38, 1e-39]
MXFP4 = gguf.GGMLQuantizationType.MXFP4


def by_mlx(weight, kind, mode, bits, size):
    how = {"group_size": size, "bits": bits, "mode": mode}
    packed = mx.quantize(mx.full((1, 32), weight).astype(kind), **how)
    back = np.array(mx.dequantize(*packed, **how).astype(mx.float32))
    assert len(np.unique(back)) == 1
    return float(back[0, 0])


def by_gguf(weight):
    with np.errstate(all="ignore"):
        packed = gguf.quants.quantize(np.full((1, 32), weight, np.float32), MXFP4)
        return float(gguf.quants.dequantize(packed, MXFP4)[0, 0])


WAYS = {
    "mlx, mxfp8 of bf16": lambda weight: by_mlx(weight, mx.bfloat16, "mxfp8", 8, 32),
    "mlx, mxfp8 of fp32": lambda weight: by_mlx(weight, mx.float32, "mxfp8", 8, 32),
    "mlx, mxfp4 of bf16": lambda weight: by_mlx(weight, mx.bfloat16, "mxfp4", 4, 32),
    "mlx, mxfp4 of fp32": lambda weight: by_mlx(weight, mx.float32, "mxfp4", 4, 32),
    "mlx, nvfp4 of fp32": lambda weight: by_mlx(weight, mx.float32, "nvfp4", 4, 16),
    "mlx, affine of fp32": lambda weight: by_mlx(weight, mx.float32, "affine", 4, 32),
    "gguf, mxfp4 of fp32": by_gguf,
}
print(*(f"{name} {version(name)}" for name in ("mlx", "gguf")), sep=", ")
print(f"{'written':20}", *(f"{weight:<10.3g}" for weight in WEIGHTS))
seen = {name: [way(weight) for weight in WEIGHTS] for name, way in WAYS.items()}
for name, found in seen.items():
    print(f"{name:20}", *(f"{weight:<10.3g}" for weight in found))
for name in ("mlx, mxfp8 of bf16", "mlx, mxfp8 of fp32", "mlx, mxfp4 of bf16", "mlx, mxfp4 of fp32"):
    assert seen[name][0] == 0 and abs(seen[name][1] / 1e-30 - 1) < 0.2, name
assert seen["mlx, mxfp8 of bf16"][2] == seen["mlx, mxfp8 of fp32"][2] == inf
assert seen["mlx, mxfp8 of fp32"][3] == inf and seen["mlx, mxfp8 of fp32"][4] > 1e38
for name in ("mlx, mxfp4 of bf16", "mlx, mxfp4 of fp32"):
    assert abs(seen[name][2] / 1e-36 - 1) < 0.2 and seen[name][3] == inf, name
    assert seen[name][4] > 1e38, name
assert not any(seen["mlx, nvfp4 of fp32"]) and not any(seen["mlx, affine of fp32"])
assert abs(seen["gguf, mxfp4 of fp32"][2] / 1e-36 - 1) < 0.2
assert seen["gguf, mxfp4 of fp32"][3:] == [0, 0]
PY
