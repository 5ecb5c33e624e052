#!/usr/bin/env bash
# Four GGUF files of one small llama, equal but for how its positions are scaled: not at all, by
# factors in the tensor `rope_freqs.weight` (how Llama 3.1 and later are stored), linearly, by YaRN.
#
# Seen with transformers 5.24.0 and xllamacpp 2026.10.11549 (llama.cpp), gguf 0.19.0:
#   llama.cpp gives four different next tokens. transformers' `gguf_file=` reads all four as the first
#   one: its config has rope_type "default", the tensor and the three keys are dropped without a
#   warning, and the log-probabilities are equal to the last bit. For the unscaled file the two agree.
# So the same file completes otherwise by transformers, the more the longer the prompt, and nothing
# says so: whoever serves GGUF through it has to read the scaling from the file himself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0 \
  xllamacpp==2026.10.11549
cd "$work"
cat > write.py <<'PY'
import gguf
import numpy as np

HIDDEN, LAYERS, VOCABULARY, INNER, HEADS = 64, 2, 64, 128, 2


def write(name, scaling=None, factors=None):
    to = gguf.GGUFWriter(f"{name}.gguf", "llama")
    to.add_context_length(4096)
    to.add_embedding_length(HIDDEN)
    to.add_block_count(LAYERS)
    to.add_feed_forward_length(INNER)
    to.add_head_count(HEADS)
    to.add_head_count_kv(HEADS)
    to.add_layer_norm_rms_eps(1e-5)
    to.add_rope_freq_base(10000.0)
    to.add_rope_dimension_count(HIDDEN // HEADS)
    to.add_vocab_size(VOCABULARY)
    if scaling:
        to.add_rope_scaling_type(scaling)
        to.add_rope_scaling_factor(4.0)
        to.add_rope_scaling_orig_ctx_len(1024)
    to.add_tokenizer_model("gpt2")
    to.add_tokenizer_pre("gpt-2")
    to.add_token_list([chr(33 + token) for token in range(VOCABULARY)])
    to.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    to.add_token_merges(['! "'])
    to.add_bos_token_id(0)
    to.add_eos_token_id(1)
    draw = np.random.default_rng(0)
    if factors is not None:
        to.add_tensor("rope_freqs.weight", factors)
    shapes = {"token_embd": (VOCABULARY, HIDDEN), "output": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{part}"] = (HIDDEN, HIDDEN)
        shapes[f"blk.{layer}.ffn_gate"] = shapes[f"blk.{layer}.ffn_up"] = (INNER, HIDDEN)
        shapes[f"blk.{layer}.ffn_down"] = (HIDDEN, INNER)
        for norm in ("attn_norm", "ffn_norm"):
            to.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
    to.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for tensor, shape in shapes.items():
        to.add_tensor(f"{tensor}.weight", (draw.normal(size=shape) * 0.3).astype(np.float32))
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()


slowed = np.repeat(np.float32([1, 8]), HIDDEN // HEADS // 4)
write("plain")
write("factors", factors=slowed)
write("linear", gguf.RopeScalingType.LINEAR)
write("yarn", gguf.RopeScalingType.YARN)
PY
cat > look.py <<'PY'
import logging
from importlib.metadata import version

import torch
import transformers
import xllamacpp

transformers.utils.logging.disable_progress_bar()
warned = []
listener = logging.Handler(logging.WARNING)
listener.emit = lambda record: warned.append(record.getMessage())
logging.getLogger("transformers").addHandler(listener)
NAMES = ["plain", "factors", "linear", "yarn"]
prompt = [token * 7 % 64 for token in range(200)]


def by_llamacpp(name):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = f"{name}.gguf", 512, False
    asked = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 1}
    answer = xllamacpp.Server(params).handle_completions(asked)
    first = (answer[0] if isinstance(answer, list) else answer)["choices"][0]
    best = first["logprobs"]["content"][0]
    return best["id"], best["logprob"]


def by_transformers(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        ".", gguf_file=f"{name}.gguf", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        said = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    return model.config.rope_parameters["rope_type"], said


one = {name: by_llamacpp(name) for name in NAMES}
other = {name: by_transformers(name) for name in NAMES}
print(*(f"{name} {version(name)}" for name in ("transformers", "xllamacpp", "gguf")), sep=", ")
for name in NAMES:
    kind, said = other[name]
    print(f"{name:8} llama.cpp: token {one[name][0]:2} at {one[name][1]:.3f};", end=" ")
    print(f"transformers: token {int(said[-1].argmax()):2} at {float(said[-1].max()):.3f}, {kind}")
assert len({token for token, _ in one.values()}) == 4
for kind, said in other.values():
    assert kind == "default"
    assert torch.equal(said, other["plain"][1])
assert not [line for line in warned if "rope" in line.lower()]
assert int(other["plain"][1][-1].argmax()) == one["plain"][0]
assert abs(float(other["plain"][1][-1].max()) - one["plain"][1]) < 0.01
PY
venv/bin/python write.py
venv/bin/python look.py 2>said || { cat said; exit 1; }
