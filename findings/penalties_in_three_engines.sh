#!/usr/bin/env bash
# A word that stands in the prompt, once, and how far back it may be for a repetition penalty to keep the
# model from writing it: one model (whose best token is always the same) in three engines.
#
# Seen with transformers 5.24.0, xllamacpp 2026.10.11549 (llama.cpp), mlx-lm 0.32.2:
#   transformers looks at the whole prompt and the answer, llama.cpp's server at the last 64 tokens and
#   mlx-lm at the last 20, unless a further setting says so (repeat_last_n, repetition_context_size), which
#   is none of those that rows usually have. The prompt counts for all three, and for the presence penalties
#   of llama.cpp and mlx-lm too, in the same windows: a word that the question has is held against the
#   answer if the question is short, and is not if it is long. Nothing is said.
# So one row's penalty, tuned in one engine, does nothing in another against a sentence that comes again
# after 64 tokens or 20, or keeps all names of a long prompt out of the answer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0 \
  xllamacpp==2026.10.11549 mlx-lm==0.32.2 "mlx[cpu]==0.32.4"
cd "$work"
cat > write.py <<'PY'
import gguf
import numpy as np

WIDTH = TOKENS = 64
BEST, SECOND = 40, 41
file = gguf.GGUFWriter("model.gguf", "llama")
file.add_context_length(512)
file.add_embedding_length(WIDTH)
file.add_block_count(1)
file.add_feed_forward_length(WIDTH)
file.add_head_count(2)
file.add_head_count_kv(2)
file.add_layer_norm_rms_eps(1e-5)
file.add_rope_dimension_count(WIDTH // 2)
file.add_vocab_size(TOKENS)
file.add_tokenizer_model("gpt2")
file.add_tokenizer_pre("gpt-2")
file.add_token_list([chr(33 + token) for token in range(TOKENS)])
file.add_token_types([gguf.TokenType.NORMAL] * TOKENS)
file.add_token_merges(['! "'])
file.add_bos_token_id(0)
file.add_eos_token_id(1)
# all tokens have one state, and layers add nothing to it: what comes next is BEST after any text
out = np.full((TOKENS, WIDTH), 0.01, np.float32)
out[BEST], out[SECOND] = 0.03, 0.02
weights = {"token_embd": np.ones((TOKENS, WIDTH), np.float32), "output": out}
for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    weights[f"blk.0.{part}"] = np.zeros((WIDTH, WIDTH), np.float32)
for norm in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    weights[norm] = np.ones(WIDTH, np.float32)
for name, values in weights.items():
    file.add_tensor(f"{name}.weight", values)
file.write_header_to_file()
file.write_kv_data_to_file()
file.write_tensors_to_file()
file.close()
PY
cat > look.py <<'PY'
from importlib.metadata import version

import mlx.core as mx
import torch
import transformers
import xllamacpp
from mlx_lm.generate import generate_step
from mlx_lm.models import llama
from mlx_lm.sample_utils import make_logits_processors

BEST, SECOND, OTHER = 40, 41, 5
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModelForCausalLM.from_pretrained(
    ".", gguf_file="model.gguf", dtype=torch.float32
).eval()
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.warmup = "model.gguf", 512, False
server = xllamacpp.Server(params)
sizes = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 64}
heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
same = llama.Model(
    llama.ModelArgs(model_type="llama", **sizes, **heads, tie_word_embeddings=False)
)
theirs = model.state_dict().items()
same.load_weights([(name, mx.array(values.numpy())) for name, values in theirs])


def by_transformers(prompt, repetition):
    ids = torch.tensor([prompt])
    asked = {"max_new_tokens": 1, "do_sample": False, "repetition_penalty": repetition}
    said = model.generate(ids, attention_mask=torch.ones_like(ids), **asked, pad_token_id=0)
    return int(said[0, -1])


def by_llamacpp(prompt, repetition, presence=0.0, **more):
    asked = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 1}
    asked |= {"repeat_penalty": repetition, "presence_penalty": presence, "cache_prompt": False}
    answer = server.handle_completions(asked | more)
    first = (answer[0] if isinstance(answer, list) else answer)["choices"][0]
    return first["logprobs"]["content"][0]["id"]


def by_mlx(prompt, repetition, presence=0.0, **more):
    rules = make_logits_processors(
        repetition_penalty=repetition, presence_penalty=presence, **more
    )
    steps = generate_step(mx.array(prompt), same, max_tokens=1, logits_processors=rules)
    return int(next(steps)[0])


def reach(engine, *penalties, **more):
    """How many tokens from the end the word may be, of 200, for the penalty to hold it back."""
    prompts = {n: [BEST, *[OTHER] * (n - 1)] for n in range(1, 201)}
    back = [n for n in prompts if engine(prompts[n], *penalties, **more) == SECOND]
    assert back == list(range(1, len(back) + 1))
    return len(back)


ENGINES = {"transformers": by_transformers, "xllamacpp": by_llamacpp, "mlx-lm": by_mlx}
print(*(f"{name} {version(name)}" for name in ENGINES), sep=", ")
assert all(engine([BEST] * 9, 1.0) == BEST for engine in ENGINES.values())
seen = {f"{name}, repetition": reach(engine, 1.8) for name, engine in ENGINES.items()}
seen["xllamacpp, presence"] = reach(by_llamacpp, 1.0, 2.0)
seen["mlx-lm, presence"] = reach(by_mlx, 1.0, 2.0)
seen["xllamacpp, repetition, repeat_last_n"] = reach(by_llamacpp, 1.8, repeat_last_n=512)
seen["mlx-lm, repetition, repetition_context_size"] = reach(by_mlx, 1.8, repetition_context_size=512)
for name, tokens in seen.items():
    print(f"{name:44} {tokens} of 200 tokens back")
assert list(seen.values()) == [200, 64, 20, 64, 20, 200, 200]
PY
venv/bin/python write.py
venv/bin/python look.py 2>said || { cat said; exit 1; }
