#!/usr/bin/env bash
# Embeddings of five rows and four columns written to safetensors by its functions for numpy: as numpy makes them,
# as `to_numpy` of a pandas and of a Polars table gives them, transposed, every second row, and one column.
#
# Seen with safetensors 0.8.0 and 0.7.0, numpy 2.4.6, pandas 3.1.1, polars 2.1.0:
#   0.8.0 writes as many bytes as the array has, from its first number on, as they lie in memory, under the
#   array's own shape. Tables keep columns, so that theirs lie column by column: the file's first row is 0, 4, 8,
#   12 where the table's is 0, 1, 2, 3. The transposed array comes back as other rows, every second row as the
#   first ones, a column as the numbers of a row. Shape, type and size of the file are right, and nothing is said,
#   neither when it is written nor when it is read. 0.7.0 writes what the arrays say. So does numpy's own
#   `savez`. `np.ascontiguousarray` makes all of them right; safetensors asks for it in words and looks at none.
# So after an upgrade each document has numbers of other documents' embeddings in its vector, a search finds
# something, and a weight that was transposed for an export is noise of the right size.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6 pandas==3.1.1 polars==2.1.0
"$work/venv/bin/pip" install -q --no-deps --target "$work/older" safetensors==0.7.0
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import numpy as np
import pandas as pd
import polars as pl
from safetensors.numpy import load_file, save_file

release = version("safetensors")
print(f"safetensors {release}, {', '.join(f'{name} {version(name)}' for name in ('numpy', 'pandas', 'polars'))}")
rows = np.arange(20, dtype=np.float32).reshape(5, 4)
names = list("abcd")
arrays = {
    "as numpy makes it": rows,
    "of pandas": pd.DataFrame(dict(zip(names, rows.T.copy()))).to_numpy(),
    "of Polars": pl.DataFrame(dict(zip(names, rows.T.copy()))).to_numpy(),
    "transposed": rows.T,
    "every second row": rows[::2],
    "one column": rows[:, 0],
}
save_file(arrays, "arrays.safetensors")
save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, "contiguous.safetensors")
np.savez("arrays.npz", **arrays)
read, mended, by_numpy = load_file("arrays.safetensors"), load_file("contiguous.safetensors"), np.load("arrays.npz")
for name, array in arrays.items():
    same = np.array_equal(read[name], array)
    print(f"    {name:18} first {str(array[:1].tolist()):22} read {str(read[name][:1].tolist()):22} {same}")
    assert np.array_equal(mended[name], array) and np.array_equal(by_numpy[name], array)
    assert read[name].shape == array.shape and read[name].dtype == array.dtype
    assert same == (release == "0.7.0" or name == "as numpy makes it"), name
if release == "0.8.0":
    assert read["of pandas"][0].tolist() == read["of Polars"][0].tolist() == [0, 4, 8, 12]
    assert read["transposed"][0].tolist() == [0, 1, 2, 3, 4]
    assert read["every second row"].tolist() == rows[:3].tolist()
    assert read["one column"].tolist() == [0, 1, 2, 3, 4]
PY
venv/bin/python look.py
PYTHONPATH=$work/older venv/bin/python look.py
