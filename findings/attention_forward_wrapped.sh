#!/usr/bin/env bash
# Reaching a model's own helpers through its attention layer's `forward`, as code does that replaces
# `apply_rotary_pos_emb` or reads a layer's source.
#
# transformers 5.24.0 renamed an argument of the attention layers and wrapped their `forward` to take
# the old name too. The wrapper copies name, qualified name and `__module__`, so it looks like the
# model's own function, but `forward.__globals__` and `forward.__code__` are those of
# transformers.utils.deprecation: a helper looked up or replaced there is not found, and what is
# stored there changes nothing, without an error. In 5.23.0 both are the model's own.
# `inspect.unwrap(forward)` gives the function that both releases run.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
cat > "$work/look.py" <<'PY'
import inspect
import sys
from pathlib import Path

import transformers
from transformers.models.llama import modeling_llama

forward = modeling_llama.LlamaAttention.forward
seen = {
    "says its module is": forward.__module__,
    "has the names of": forward.__globals__["__name__"],
    "has its code in": Path(forward.__code__.co_filename).name,
    "finds apply_rotary_pos_emb": "apply_rotary_pos_emb" in forward.__globals__,
}
print(transformers.__version__, seen)
own = "transformers.models.llama.modeling_llama"
wrapped = sys.argv[1] == "wrapped"
assert seen["says its module is"] == own
assert seen["has the names of"] == ("transformers.utils.deprecation" if wrapped else own)
assert seen["has its code in"] == ("deprecation.py" if wrapped else "modeling_llama.py")
assert seen["finds apply_rotary_pos_emb"] is not wrapped
assert inspect.unwrap(forward).__globals__["__name__"] == own
PY
"$work/venv/bin/pip" install -q transformers==5.23.0
(cd "$work" && venv/bin/python look.py own)
"$work/venv/bin/pip" install -q transformers==5.24.0
(cd "$work" && venv/bin/python look.py wrapped)
