#!/usr/bin/env bash
# A checkpoint whose layers were cast to float8 (F8_E4M3 in safetensors, no scales beside them, as plain casts of a
# model are shared), loaded by transformers and by mlx-lm; and the same numbers through mlx's own load and save.
#
# Seen with mlx 0.32.4 on CPUs, mlx-lm 0.32.2, transformers 5.24.0, torch 2.13.0, safetensors 0.8.0:
#   mlx reads F8_E4M3 as uint8: 1.0 is 56, -0.5 is 176, and 448 is 126. F8_E8M0, the scales of MX formats, is read
#   so too; F8_E5M2 it refuses. mlx-lm loads the model without a word, multiplies with those integers, and writes
#   an answer; transformers loads the values and writes the model's. What mlx saves of it says U8, so that after one
#   pass through mlx any other reader has the integers for values, too. `mx.from_fp8` makes the numbers of them.
# So a model that fits the memory in float8 answers, at the usual speed, with the bits of its weights for weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q "mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.24.0 safetensors==0.8.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>warned
from importlib.metadata import version

import mlx.core as mx
import mlx_lm
import torch
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FLOAT8, PROMPT, NEW = torch.float8_e4m3fn, [3, 17, 9, 22, 5], 6
print(*(f"{name} {version(name)}" for name in ("mlx", "mlx-lm", "transformers", "torch")), sep=", ")

numbers = torch.tensor([1.0, -0.5, 448.0])
save_file({"x": numbers.to(FLOAT8)}, "numbers.safetensors")
read = mx.load("numbers.safetensors")["x"]
print("mlx reads", numbers.tolist(), "as", read.tolist(), read.dtype)
assert read.dtype == mx.uint8 and read.tolist() == [56, 176, 126]
assert mx.from_fp8(read, mx.float32).tolist() == numbers.tolist()
mx.save_safetensors("again.safetensors", {"x": read})
again = load_file("again.safetensors")["x"]
print("and what it saves is", again.tolist(), again.dtype)
assert again.dtype == torch.uint8
save_file({"x": numbers.abs().to(torch.float8_e5m2)}, "wide.safetensors")
try:
    mx.load("wide.safetensors")
    raise SystemExit("F8_E5M2 is read")
except RuntimeError as error:
    assert "unsupported dtype F8_E5M2" in str(error)

torch.manual_seed(1)
LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=0, eos_token_id=63, tie_word_embeddings=False, initializer_range=0.2,
    )
).save_pretrained("model")
words = models.WordLevel({f"w{n}": n for n in range(64)}, unk_token="w0")
PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained("model")
weights = load_file("model/model.safetensors")
cast = {name: w.to(FLOAT8) if "proj" in name else w for name, w in weights.items()}


def by_transformers():
    model = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32).eval()
    ids = torch.tensor([PROMPT])
    return model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, len(PROMPT) :].tolist()


def by_mlx():
    model, _ = mlx_lm.load("model")
    kinds = {str(w.dtype) for name, w in tree_flatten(model.parameters()) if "proj" in name}
    steps = generate_step(mx.array(PROMPT), model, max_tokens=NEW)
    return [int(token) for token, _ in steps], kinds


for what, values in (
    ("its values in float32", {name: w.float() for name, w in cast.items()}),
    ("cast to float8", cast),
):
    save_file(values, "model/model.safetensors", metadata={"format": "pt"})
    right, (found, kinds) = by_transformers(), by_mlx()
    print(f"{what}: transformers {right}, mlx-lm {found} with layers of {kinds}")
    assert (found == right) == (what != "cast to float8")
assert kinds == {"mlx.core.uint8"}
PY
! grep -qi "float8\|fp8\|uint8\|F8_" warned
