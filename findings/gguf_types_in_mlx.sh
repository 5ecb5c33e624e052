#!/usr/bin/env bash
# GGUF files of three tensors, the middle one of another type each time, and what mlx's `load` gives of them,
# beside gguf's own reader.
#
# Seen with mlx 0.32.4 on CPUs, gguf 0.19.0:
#   At a type that it does not know mlx stops, as if the file ended: of a file with MXFP4 in the middle (as
#   gpt-oss has it) or TQ1_0 it gives what stands before that, without a word. Where its first tensor is of
#   such a type it gives an empty dict. What is lost depends on the order in the file, not on the types of
#   what is lost. On other types that it cannot convert (Q5_0, I64) it raises.
#   BF16 it makes float16: 70144 is infinity and 1e-9 is 0. Of Q8_0 and Q4_0 it keeps scales and makes biases
#   in float16, which end at 65504: a block whose scale is 787.5, finite in the file, gets a bias of minus
#   infinity, and its zeros are minus infinity or NaN. gguf gives all of these numbers back.
# So a loader that fills in what the dict has (`strict=False`) runs with random layers, and outliers of a
# bf16 model are infinite.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "mlx[cpu]==0.32.4" gguf==0.19.0 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY' 2>said || { cat said; exit 1; }
from importlib.metadata import version

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type

ONES = np.ones((1, 64), np.float32)


def write(*tensors):
    """A GGUF file of tensors, each an array and the type it is stored as (None: as it is)."""
    to = gguf.GGUFWriter("some.gguf", "llama")
    for place, (array, kind) in enumerate(tensors):
        packed = array if kind is None else gguf.quants.quantize(array, kind)
        to.add_tensor(f"t{place}.weight", packed, raw_dtype=kind)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()
    there = [tensor.name for tensor in gguf.GGUFReader("some.gguf").tensors]
    assert there == [f"t{place}.weight" for place in range(len(tensors))]


def loaded():
    """The tensors that mlx finds, without the scales and biases beside them, or the error's name."""
    try:
        return sorted(name for name in mx.load("some.gguf") if name.endswith(".weight"))
    except RuntimeError as error:
        return type(error).__name__


print(*(f"{name} {version(name)}" for name in ("mlx", "gguf")), sep=", ")
wide = np.ones((1, 256), np.float32)
ALL = [f"t{place}.weight" for place in range(3)]
KNOWN = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
for kind in (*KNOWN, "MXFP4", "TQ1_0", "Q5_0"):
    write((ONES, None), (wide, Type[kind]), (ONES, None))
    found = loaded()
    print(f"{kind:6} between two of F32: mlx gives {found}")
    assert found == (ALL if kind in KNOWN else "RuntimeError" if kind == "Q5_0" else ALL[:1]), kind
write((ONES, None), (np.arange(4), None), (ONES, None))
assert loaded() == "RuntimeError"
write((wide, Type.MXFP4), (ONES, None), (ONES, None))
print("MXFP4 first:", mx.load("some.gguf"))
assert mx.load("some.gguf") == {}

block = np.zeros((1, 32), np.float32)
block[0, :3] = [70144.0, -3.0, 1e-9]
write((block, Type.BF16))
by_gguf = gguf.quants.dequantize(gguf.GGUFReader("some.gguf").tensors[0].data, Type.BF16)[0, :4]
by_mlx = mx.load("some.gguf")["t0.weight"]
print(f"BF16: gguf {by_gguf.tolist()}, mlx {by_mlx.dtype} {by_mlx[0, :4].tolist()}")
assert by_gguf[0] == 70144.0 and 0 < by_gguf[2] < 2e-9
assert by_mlx.dtype == mx.float16 and by_mlx[0, :4].tolist() == [float("inf"), -3.0, 0.0, 0.0]
block[0, 0] = 100012.5
for kind, bits in (("Q8_0", 8), ("Q4_0", 4)):
    write((block, Type[kind]))
    by_gguf = gguf.quants.dequantize(gguf.GGUFReader("some.gguf").tensors[0].data, Type[kind])[0]
    parts = mx.load("some.gguf")
    names = ("t0.weight", "t0.scales", "t0.biases")
    by_mlx = np.array(mx.dequantize(*(parts[name] for name in names), group_size=32, bits=bits))[0]
    print(
        f"{kind}: gguf {by_gguf[:4].tolist()}, mlx a scale of {parts['t0.scales'].item()},",
        f"a bias of {parts['t0.biases'].item()}, {by_mlx[:4].tolist()}",
    )
    assert np.isfinite(by_gguf).all() and by_gguf[0] > 99000
    assert np.isfinite(parts["t0.scales"].item()) and np.isinf(parts["t0.biases"].item())
    assert not np.isfinite(by_mlx[3:]).any()
PY
