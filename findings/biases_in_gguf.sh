#!/usr/bin/env bash
# Two GGUF files of one small llama and two of one small nemotron, equal but for biases of the projections
# before attention (`blk.N.attn_q.bias` and so on), which llama.cpp adds where a file has them.
#
# Seen with transformers 5.24.0, xllamacpp 2026.10.11549 (llama.cpp), gguf 0.19.0:
#   With and without biases llama.cpp gives different next tokens. transformers' `gguf_file=` reads both
#   files of a kind as the one without: what it builds has no place for a bias, since no key of the file
#   speaks of biases, and a tensor without a place is passed over. The log-probabilities are equal to the
#   last bit, and no warning names a tensor. Without biases the two agree; a qwen2 with biases is right in
#   both, since that model always has them.
# So a llama whose config had `attention_bias` completes by transformers as another model would, and only
# a comparison with llama.cpp tells.
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

WIDTH, LAYERS, TOKENS, INNER, HEADS = 64, 2, 64, 128, 2
BEFORE = ("attn_q", "attn_k", "attn_v")


def write(kind, biased):
    file = gguf.GGUFWriter(f"{kind}{'-biased' if biased else ''}.gguf", kind)
    file.add_context_length(512)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_vocab_size(TOKENS)
    plain = kind == "nemotron"  # no gate, norms with a bias, positions in half of each head
    file.add_rope_dimension_count(WIDTH // HEADS // 2 if plain else WIDTH // HEADS)
    (file.add_layer_norm_eps if plain else file.add_layer_norm_rms_eps)(1e-5)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list([chr(33 + token) for token in range(TOKENS)])
    file.add_token_types([gguf.TokenType.NORMAL] * TOKENS)
    file.add_token_merges(['! "'])
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    draw, draw_bias = np.random.default_rng(0), np.random.default_rng(1)

    def weights(name, *shape):
        file.add_tensor(f"{name}.weight", (draw.normal(size=shape) * 0.3).astype(np.float32))

    def norm(name):
        file.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
        if plain:
            file.add_tensor(f"{name}.bias", np.zeros(WIDTH, np.float32))

    weights("token_embd", TOKENS, WIDTH)
    weights("output", TOKENS, WIDTH)
    norm("output_norm")
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        for part in (*BEFORE, "attn_output"):
            weights(f"{block}.{part}", WIDTH, WIDTH)
        for part in ("ffn_up",) if plain else ("ffn_gate", "ffn_up"):
            weights(f"{block}.{part}", INNER, WIDTH)
        weights(f"{block}.ffn_down", WIDTH, INNER)
        for part in BEFORE if biased else ():
            bias = draw_bias.normal(size=WIDTH).astype(np.float32)
            file.add_tensor(f"{block}.{part}.bias", bias)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


for kind in ("llama", "nemotron"):
    for biased in (False, True):
        write(kind, biased)
write("qwen2", True)
PY
cat > look.py <<'PY'
import logging
import warnings
from importlib.metadata import version

import torch
import transformers
import xllamacpp

transformers.utils.logging.disable_progress_bar()
warned = []
listener = logging.Handler(logging.WARNING)
listener.emit = lambda record: warned.append(record.getMessage())
logging.getLogger("transformers").addHandler(listener)
warnings.showwarning = lambda message, *rest: warned.append(str(message))
NAMES = ["llama", "llama-biased", "nemotron", "nemotron-biased", "qwen2-biased"]
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
        return model(torch.tensor([prompt])).logits[0].log_softmax(-1)


print(*(f"{name} {version(name)}" for name in ("transformers", "xllamacpp", "gguf")), sep=", ")
one, other = {}, {}
for name in NAMES:
    (token, score), said = by_llamacpp(name), by_transformers(name)
    best = int(said[-1].argmax())
    print(f"{name:16} llama.cpp: token {token:2} at {score:.3f};", end=" ")
    print(f"transformers: token {best:2} at {float(said[-1, best]):.3f}")
    one[name], other[name] = (token, score), said


def agree(name):
    token, score = one[name]
    return int(other[name][-1].argmax()) == token and abs(float(other[name][-1].max()) - score) < 0.01


assert [name for name in NAMES if agree(name)] == ["llama", "nemotron", "qwen2-biased"]
for kind in ("llama", "nemotron"):
    assert one[kind][0] != one[f"{kind}-biased"][0]
    assert torch.equal(other[kind], other[f"{kind}-biased"])
assert not [line for line in warned if "bias" in line.lower()]
PY
venv/bin/python write.py
venv/bin/python look.py 2>said || { cat said; exit 1; }
