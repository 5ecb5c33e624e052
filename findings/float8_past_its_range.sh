#!/usr/bin/env bash
# What float8 makes of numbers that it cannot hold, as weights or caches have where something went
# wrong: 1000 and infinity, for e4m3fn whose largest is 448, and NaN; 100000 for e5m2 (57344).
#
# Seen with torch 2.12.0 and 2.13.0, ml_dtypes 0.6.0, onnxruntime 1.32.0, mlx 0.32.4 on CPUs:
#   torch's cast to e4m3fn gave NaN until 2.12.0 and gives 448 since 2.13.0, for infinity too; its
#   cast to e5m2 gives infinity and those to the two fnuz kinds NaN in both. ml_dtypes (numpy, JAX)
#   gives NaN and infinity; onnxruntime the largest number. mlx's to_fp8 makes 448 of NaN as well,
#   though from_fp8 knows NaN; and its mxfp8 `quantize` makes 896 of all 32 weights of a block that
#   has one NaN, mxfp4 0.
# So a check for NaN after a cast, or after a quantised file was written, found what had overflowed
# with one release or library and finds a row of plausible numbers with another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() { "$work/venv/bin/pip" install -q "$@"; }
pip numpy==2.4.6 ml_dtypes==0.6.0 onnx==1.23.2 onnxruntime==1.32.0 "mlx[cpu]==0.32.4" torch==2.12.0
cat > "$work/torchs.py" <<'PY'
import sys

import torch

print("torch", torch.__version__)
for kind, given in {
    torch.float8_e4m3fn: [1000.0, float("inf"), float("nan")],
    torch.float8_e4m3fnuz: [1000.0, float("inf"), float("nan")],
    torch.float8_e5m2: [100000.0, float("inf"), float("nan")],
}.items():
    found = str(torch.tensor(given).to(kind).float().tolist())
    print(f"  {str(kind):22} {given} -> {found}")
    since = "[448.0, 448.0, nan]" if sys.argv[1] == "clips" else "[nan, nan, nan]"
    wanted = {"float8_e4m3fn": since, "float8_e5m2": "[inf, inf, nan]"}
    assert found == wanted.get(str(kind).removeprefix("torch."), "[nan, nan, nan]"), "changed"
PY
cat > "$work/others.py" <<'PY'
from importlib.metadata import version

import ml_dtypes
import mlx.core as mx
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

x = np.float32([1000, np.inf, np.nan])


def by_onnx(kind):
    cast = [
        helper.make_node("Cast", ["x"], ["small"], to=kind),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None])] for name in "xy"]
    model = helper.make_model(
        helper.make_graph(cast, "g", *ends), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x * 100})[0]


with np.errstate(all="ignore"):
    found = {
        "ml_dtypes, e4m3fn": x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32),
        "ml_dtypes, e5m2": (x * 100).astype(ml_dtypes.float8_e5m2).astype(np.float32),
        "onnxruntime, e4m3fn": by_onnx(TensorProto.FLOAT8E4M3FN),
        "onnxruntime, e5m2": by_onnx(TensorProto.FLOAT8E5M2),
        "mlx, to_fp8": np.array(mx.from_fp8(mx.to_fp8(mx.array(x)), mx.float32)),
        "mlx, from_fp8(0x7f)": np.array(mx.from_fp8(mx.array([0x7F], mx.uint8), mx.float32)),
    }
    for mode, bits in (("mxfp8", 8), ("mxfp4", 4)):
        block = mx.ones((1, 32))
        block[0, 3] = float("nan")
        how = {"group_size": 32, "bits": bits, "mode": mode}
        kept = mx.dequantize(*mx.quantize(block, **how), **how)
        found[f"mlx, {mode}"] = np.array(kept[0].astype(mx.float32))
print(*(f"{name} {version(name)}" for name in ("ml_dtypes", "onnxruntime", "mlx")), sep=", ")
for name, numbers in found.items():
    print(f"  {name:21}", len(numbers), "numbers:", *dict.fromkeys(map(str, numbers.tolist())))
said = {name: str(numbers.tolist()) for name, numbers in found.items()}
assert said == {
    "ml_dtypes, e4m3fn": "[nan, nan, nan]",
    "ml_dtypes, e5m2": "[inf, inf, nan]",
    "onnxruntime, e4m3fn": "[448.0, 448.0, nan]",
    "onnxruntime, e5m2": "[57344.0, 57344.0, nan]",
    "mlx, to_fp8": "[448.0, 448.0, 448.0]",
    "mlx, from_fp8(0x7f)": "[nan]",
    "mlx, mxfp8": str([896.0] * 32),
    "mlx, mxfp4": str([0.0] * 32),
}
PY
"$work/venv/bin/python" "$work/torchs.py" nan
"$work/venv/bin/python" "$work/others.py"
pip torch==2.13.0
"$work/venv/bin/python" "$work/torchs.py" clips
