#!/usr/bin/env bash
# Arrow columns of numbers as numpy arrays, and back, where pandas is installed and not used.
#
# pyarrow 26.0.1 imports pandas the first time that `Array.to_numpy`, `ChunkedArray.to_numpy`,
# `numpy.asarray` of a column or `pyarrow.array`, also of a plain list, is called, if it is
# installed: a second, which is most of the time of a short program. `numpy.frombuffer` of the
# column's own buffer, `numpy.from_dlpack` and `Array.from_buffers` do the same work without.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cat > "$work/look.py" <<'PY'
import sys
import time

import numpy as np
import pyarrow as pa

numbers = np.arange(5)
column = pa.Array.from_buffers(pa.int64(), 5, [None, pa.py_buffer(numbers)])
ways = {
    "array.to_numpy": lambda: column.to_numpy(),
    "chunked.to_numpy": lambda: pa.chunked_array([column]).to_numpy(),
    "np.asarray": lambda: np.asarray(column),
    "pa.array of numpy": lambda: pa.array(numbers),
    "pa.array of a list": lambda: pa.array([1, 2, 3]),
    "frombuffer": lambda: np.frombuffer(column.buffers()[1], np.int64),
    "from_dlpack": lambda: np.from_dlpack(column),
}
began = time.perf_counter()
ways[sys.argv[1]]()
seconds = time.perf_counter() - began
imported = "pandas" in sys.modules
print(f"pyarrow {pa.__version__}, {sys.argv[1]}: pandas imported {imported}, {seconds:.3f} s")
assert imported is (sys.argv[2] == "yes"), "this has changed"
PY
for way in "array.to_numpy" "chunked.to_numpy" "np.asarray" "pa.array of numpy" "pa.array of a list"; do
  (cd "$work" && venv/bin/python look.py "$way" yes)
done
for way in "frombuffer" "from_dlpack"; do
  (cd "$work" && venv/bin/python look.py "$way" no)
done
