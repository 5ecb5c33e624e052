#!/usr/bin/env bash
# Seeds as jobs make them for each row: a hash of the row's id, 64 bits, or the job's number in the upper half
# and the row's in the lower. Which of their bits count, in seven libraries.
#
# Seen with torch 2.13.0 on a CPU, jax 0.10.2, xllamacpp 2026.10.11549 (llama.cpp), mlx 0.32.4, numpy 2.4.6,
# ctranslate2 4.8.5, transformers 5.24.0:
#   torch's generator for CPUs, jax unless told to have 64 bits, and llama.cpp take the lower 32 alone: 1 and
#   2^32 + 1 draw the same tokens, noise and permutation, though torch's `initial_seed()` gives the whole
#   number back. So rows of one number in two jobs, or with a seed of `job << 32`, are one draw. The seed
#   2^32 - 1, and with it -1 and every hash that ends so, is a new draw each time for llama.cpp. mlx and
#   numpy's default_rng count all 64 bits; ctranslate2 and transformers' set_seed refuse more than 32.
#   Nobody warns.
# So ten answers "of ten seeds" are ten times one answer, and their agreement looks like certainty; a mean
# over repeated jobs has the spread of one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 "mlx[cpu]==0.32.4" numpy==2.4.6 \
  ctranslate2==4.8.5 gguf==0.19.0 xllamacpp==2026.10.11549 jax==0.10.2
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import ctranslate2
import gguf
import jax
import mlx.core as mx
import numpy as np
import torch
import transformers
import xllamacpp

TOKENS, WIDTH, DRAWN = 32, 32, 12
to = gguf.GGUFWriter("model.gguf", "llama")
to.add_context_length(64)
to.add_embedding_length(WIDTH)
to.add_block_count(1)
to.add_feed_forward_length(WIDTH)
to.add_head_count(1)
to.add_head_count_kv(1)
to.add_layer_norm_rms_eps(1e-6)
to.add_vocab_size(TOKENS)
to.add_tokenizer_model("gpt2")
to.add_tokenizer_pre("gpt-2")
to.add_token_list([chr(65 + token) for token in range(TOKENS)])
to.add_token_types([gguf.TokenType.NORMAL] * TOKENS)
to.add_token_merges(["A B"])
for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    to.add_tensor(f"blk.0.{part}.weight", np.zeros((WIDTH, WIDTH), np.float32))
for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
    to.add_tensor(f"{norm}.weight", np.ones(WIDTH, np.float32))
to.add_tensor("token_embd.weight", np.ones((TOKENS, WIDTH), np.float32))
to.add_tensor("output.weight", np.zeros((TOKENS, WIDTH), np.float32))
to.write_header_to_file()
to.write_kv_data_to_file()
to.write_tensors_to_file()
to.close()
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.warmup = "model.gguf", 64, False
server = xllamacpp.Server(params)


def of_torch(draw):
    return lambda seed: draw(torch.Generator().manual_seed(seed)).tolist()


def of_llamacpp(seed):
    asked = {"prompt": [1], "n_predict": DRAWN, "seed": seed, "temperature": 1.0}
    answer = server.handle_completions(asked | {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True})
    first = answer[0] if isinstance(answer, list) else answer
    return first["choices"][0]["text"]


def of_ctranslate2(seed):
    ctranslate2.set_random_seed(seed)
    return seed


def of_set_seed(seed):
    transformers.set_seed(seed)
    return torch.rand(DRAWN).tolist()


PLACES = {
    "torch rand": of_torch(lambda by: torch.rand(DRAWN, generator=by)),
    "torch multinomial": of_torch(lambda by: torch.multinomial(torch.ones(999), DRAWN, generator=by)),
    "torch randperm": of_torch(lambda by: torch.randperm(999, generator=by)),
    "jax": lambda seed: jax.random.uniform(jax.random.key(seed), (DRAWN,)).tolist(),
    "llama.cpp": of_llamacpp,
    "mlx": lambda seed: mx.random.uniform(shape=(DRAWN,), key=mx.random.key(seed)).tolist(),
    "numpy": lambda seed: np.random.default_rng(seed).random(DRAWN).tolist(),
    "ctranslate2": of_ctranslate2,
    "set_seed": of_set_seed,
}
PACKAGES = ("torch", "jax", "xllamacpp", "mlx", "numpy", "ctranslate2", "transformers")
print(*(f"{name} {version(name)}" for name in PACKAGES), sep=", ")
seen = {}
for name, draw in PLACES.items():
    plain = draw(1)
    assert plain == draw(1) != draw(2), name
    try:
        seen[name] = "the same draw" if draw(2**32 + 1) == draw(7 * 2**32 + 1) == plain else "another draw"
    except (TypeError, ValueError) as error:
        seen[name] = f"refused ({type(error).__name__})"
    print(f"{name:18} 2^32 + 1 and 7 * 2^32 + 1, beside 1: {seen[name]}")
same = ("torch rand", "torch multinomial", "torch randperm", "jax", "llama.cpp")
assert all(seen.pop(name) == "the same draw" for name in same)
assert seen.pop("mlx") == seen.pop("numpy") == "another draw"
assert len(seen) == 2 and all(said.startswith("refused") for said in seen.values())
assert torch.Generator().manual_seed(2**32 + 1).initial_seed() == 2**32 + 1
assert len({PLACES["torch rand"](job << 32)[0] for job in range(10)}) == 1
drawn = [of_llamacpp(seed) for seed in (2**32 - 1, -1, 2**40 - 1, 2**32 - 1)]
print("llama.cpp by 2^32 - 1, -1, 2^40 - 1 and 2^32 - 1:", *map(repr, drawn))
assert len(set(drawn)) == 4
PY
HF_HOME=$work/hf venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
