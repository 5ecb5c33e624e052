#!/usr/bin/env bash
# Casts to float8 (e4m3) in Triton's interpreter (TRITON_INTERPRET=1), which tests without a GPU use.
#
# triton 3.9.0's interpreter does not round to the nearest where the mantissa carries into the
# exponent: 31 lies between the neighbours 30 and 32 and becomes 16, half of what it was, and so does
# 124 (128 or 120). Ties go up instead of to even: 84, between 80 and 88, becomes 88. torch's cast
# gives 32, 128 and 80, as the instruction of a GPU does. So a kernel that rounds to float8 cannot be compared bit for bit there,
# and a row's largest numbers may come out halved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q triton==3.9.0 numpy==2.3.5
cat > "$work/cast.py" <<'PY'
import sys

import numpy
import torch
import triton
import triton.language as tl


@triton.jit
def cast(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at).to(tl.float8e4nv))


x = torch.tensor([124.0, -31.0, 84.0, 448.0])
out = torch.zeros(4, dtype=torch.float8_e4m3fn)
cast[(1,)](x, out, 4)
seen, torchs = out.float().tolist(), x.to(torch.float8_e4m3fn).float().tolist()
print(f"triton {triton.__version__}, torch {torch.__version__}, numpy {numpy.__version__}")
print("values     ", x.tolist())
print("interpreter", seen)
print("torch      ", torchs)
sys.exit(seen != [64.0, -16.0, 88.0, 448.0] or torchs != [128.0, -32.0, 80.0, 448.0])
PY
TRITON_INTERPRET=1 "$work/venv/bin/python" "$work/cast.py"
