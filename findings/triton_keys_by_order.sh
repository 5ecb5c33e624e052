#!/usr/bin/env bash
# A Triton kernel's name in the cache on disk depends on which other kernel the process asked for first.
#
# Two kernels call one function that reads a global constant. With triton 3.7.0 the second kernel has one key
# when it is asked for alone and another after the first: the constants of a called function count only where
# that function's own key is known already. So a cache filled by one process (an image built ahead, a warm-up
# script, threads that compile side by side) may miss in the next, whose launches come in another order, and
# each miss compiles for a second or more; nothing says why. triton 3.8.0 gives one key. No GPU is needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/kernels.py" <<'PY'
import sys

import triton
import triton.language as tl

LARGEST = tl.constexpr(448.0)


@triton.jit
def capped(x):
    return tl.minimum(x, LARGEST)


@triton.jit
def copy_kernel(source, out, SIZE: tl.constexpr):
    lane = tl.arange(0, SIZE)
    tl.store(out + lane, capped(tl.load(source + lane)))


@triton.jit
def double_kernel(source, out, SIZE: tl.constexpr):
    lane = tl.arange(0, SIZE)
    tl.store(out + lane, 2 * capped(tl.load(source + lane)))


for name in sys.argv[1:]:
    key = globals()[name].cache_key
print(key[:16])  # of the last one
PY
for version in 3.7.0 3.8.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install -q "triton==$version"
    alone=$("$work/$version/bin/python" "$work/kernels.py" double_kernel)
    again=$("$work/$version/bin/python" "$work/kernels.py" double_kernel)
    after=$("$work/$version/bin/python" "$work/kernels.py" copy_kernel double_kernel)
    echo "triton $version: double_kernel asked for alone $alone, again $again, after copy_kernel $after"
    [ "$alone" = "$again" ]
    if [ "$version" = 3.7.0 ]; then [ "$alone" != "$after" ]; else [ "$alone" = "$after" ]; fi
done
echo "expected: one key for one kernel; seen: two with 3.7.0, one with 3.8.0"
