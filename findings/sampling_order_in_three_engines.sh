#!/usr/bin/env bash
# One row's settings (temperature with top_p or min_p, top_k with top_p) and one distribution over 32
# tokens, each 0.2 less likely in its logarithm than the one before: how many tokens three engines may
# draw from.
#
# Seen with transformers 5.24.0, xllamacpp 2026.10.11549 (llama.cpp), mlx-lm 0.32.2:
#   transformers divides by the temperature first and cuts then; llama.cpp and mlx-lm cut the model's own
#   distribution and divide last. At temperature 2 and top_p 0.9 transformers draws from 20 tokens, the
#   others from 12; at 0.5 from 6, and they from 12 still; with min_p 0.1 from 24 and 12. Of top_k 8 and
#   top_p 0.9 mlx-lm takes top_p first and keeps 8, the other two 7. The temperature alone, or top_p
#   alone, is the same for all three.
# So a row's settings that were tuned in one engine draw from half or twice as many tokens in another,
# the more so the further the temperature is from 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0 \
  xllamacpp==2026.10.11549 "mlx[cpu]==0.32.4" mlx-lm==0.32.2
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import gguf
import mlx.core as mx
import numpy as np
import torch
import xllamacpp
from mlx_lm.sample_utils import make_sampler
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS, WIDTH, DRAWS = 32, 32, 200_000
LOGITS = -0.2 * np.arange(TOKENS, dtype=np.float32)
OFF = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0}
CASES = [
    {},
    {"temperature": 2.0},
    {"top_p": 0.9},
    {"temperature": 2.0, "top_p": 0.9},
    {"temperature": 0.5, "top_p": 0.9},
    {"temperature": 2.0, "min_p": 0.1},
    {"top_k": 8, "top_p": 0.9},
]
config = LlamaConfig(
    vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, bos_token_id=0, eos_token_id=None, pad_token_id=0,
)
model = LlamaForCausalLM(config).eval()
output = np.zeros((TOKENS, WIDTH), np.float32)
output[:, 0] = LOGITS
with torch.no_grad():
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "norm" in name or "embed" in name else 0.0)
    model.lm_head.weight.copy_(torch.tensor(output))

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
to.add_tensor("output.weight", output)
to.write_header_to_file()
to.write_kv_data_to_file()
to.write_tensors_to_file()
to.close()
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.warmup = "model.gguf", 64, False
server = xllamacpp.Server(params)


def by_transformers(settings):
    done = model.generate(
        torch.tensor([[1]]), attention_mask=torch.tensor([[1]]), max_new_tokens=1, do_sample=True,
        output_scores=True, return_dict_in_generate=True, **settings,
    )
    return int(done.scores[0].isfinite().sum())


def by_llamacpp(settings):
    asked = {"prompt": [1], "n_predict": 1, "n_probs": TOKENS, "post_sampling_probs": True}
    answer = server.handle_completions(asked | settings)
    first = (answer[0] if isinstance(answer, list) else answer)["choices"][0]
    return len(first["logprobs"]["content"][0]["top_probs"])


def by_mlx(settings):
    named = {"temp" if name == "temperature" else name: value for name, value in settings.items()}
    rows = mx.broadcast_to(mx.array(LOGITS) - mx.logsumexp(mx.array(LOGITS)), (DRAWS, TOKENS))
    return len(set(make_sampler(**named)(rows).tolist()))


ENGINES = {"transformers": by_transformers, "xllamacpp": by_llamacpp, "mlx-lm": by_mlx}
print(*(f"{name} {version(name)}" for name in ENGINES), sep=", ")
seen = []
for case in CASES:
    seen.append([count(OFF | case) for count in ENGINES.values()])
    print(f"{case!s:36}", *(f"{name}: {count}" for name, count in zip(ENGINES, seen[-1])))
assert seen == [
    [TOKENS, TOKENS, TOKENS],
    [TOKENS, TOKENS, TOKENS],
    [12, 12, 12],
    [20, 12, 12],
    [6, 12, 12],
    [24, 12, 12],
    [7, 7, 8],
]
PY
HF_HOME=$work/hf venv/bin/python look.py 2>said || { cat said; exit 1; }
