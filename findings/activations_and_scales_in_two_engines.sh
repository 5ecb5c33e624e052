#!/usr/bin/env bash
# Small models whose config.json says what few of their kind do: another activation (`"hidden_act": "relu"` or "gelu"),
# heads of another width or scale (`head_dim` of a llama, `query_pre_attn_scalar`, which is not the head's width in
# gemma2's and gemma3's 27B, gpt2's two `scale_attn_` settings), an output layer of their own beside
# `tie_word_embeddings`; read by transformers and by two engines that take the same folder.
#
# Seen with transformers 5.24.0, mlx-lm 0.32.2, ctranslate2 4.8.5:
#   mlx-lm takes SiLU for llama, mistral, mixtral, qwen2, qwen3, phi3, olmo2, granite, glm4 and smollm3, and GELU for phi
#   and gemma, whatever the config says; ctranslate2 does for llama, mistral, qwen3, gemma and falcon, and keeps gpt2's.
#   Log-probabilities are off by 0.7 to 2.7.
#   ctranslate2 reads a llama whose heads are wider or narrower than the hidden size divided by their number and
#   scales by another width than theirs, off by whole units, where it is right for mistral and qwen3; it passes over
#   `query_pre_attn_scalar` and gpt2's settings. mlx-lm is right in these that it reads.
#   Where a file has an output layer of its own and the config says that it is tied, as after a fine-tuning that
#   untied it, mlx-lm drops the layer, off by eight units; transformers and ctranslate2 keep it.
#   With the usual values all agree within 0.003. Nobody warns.
# So a model of a known kind loads, with every shape right, and writes what no one trained; which of its family's
# sizes are right does not follow from one of them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.24.0 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 ctranslate2==4.8.5 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import ctranslate2
import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

IDS = list(range(4, 28))
NAMES = [chr(40 + token) for token in range(64)]
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HEAD, NO_CAPS = {"head_dim": 16}, {"attn_logit_softcapping": None, "final_logit_softcapping": None}
OWN = {
    "qwen3": HEAD, "gemma": HEAD | {"hidden_activation": None}, "gemma2": HEAD | NO_CAPS | {"query_pre_attn_scalar": 16},
    "gemma3_text": HEAD | {"query_pre_attn_scalar": 16, "num_hidden_layers": 6}, "mixtral": {"num_local_experts": 2},
}  # fmt: skip
RELU, GELU = {"hidden_act": "relu"}, {"hidden_act": "gelu"}
TIED = {"tie_word_embeddings": True}
BOTH, MLX, CT2 = ("mlx-lm", "ctranslate2"), ("mlx-lm",), ("ctranslate2",)
CASES = [  # kind, what its config says, the engines that read it, those of them that are off
    *((kind, {}, BOTH, ()) for kind in ("llama", "mistral", "qwen3", "gemma")),
    *((kind, {}, MLX, ()) for kind in ("mixtral", "qwen2", "phi3", "olmo2", "granite", "glm4", "smollm3", "phi")),
    *((kind, RELU, BOTH, BOTH) for kind in ("llama", "mistral", "qwen3")),
    *((kind, RELU, MLX, MLX) for kind in ("mixtral", "qwen2", "phi3", "olmo2", "granite", "glm4", "smollm3", "phi")),
    ("llama", GELU, BOTH, BOTH),
    ("gemma", {"hidden_act": "relu", "hidden_activation": "relu"}, BOTH, BOTH),
    ("gpt2", {"activation_function": "relu"}, CT2, ()),
    ("falcon", {}, CT2, ()),
    ("falcon", {"activation": "relu"}, CT2, CT2),
    *(("llama", {"head_dim": width}, BOTH, CT2) for width in (8, 32)),
    *((kind, {"head_dim": 32}, BOTH, ()) for kind in ("mistral", "qwen3")),
    ("gemma2", {}, CT2, ()),
    ("gemma2", {"query_pre_attn_scalar": 24}, CT2, CT2),
    ("gemma3_text", {}, BOTH, ()),
    ("gemma3_text", {"query_pre_attn_scalar": 24}, BOTH, CT2),
    ("gpt2", {}, CT2, ()),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, CT2, CT2),
    ("gpt2", {"scale_attn_weights": False}, CT2, CT2),
    *((kind, TIED, BOTH, MLX) for kind in ("llama", "mistral", "qwen3")),
    ("qwen2", TIED, MLX, MLX),
]
folders = 0


def write(kind, says):
    """A folder with a model of that kind, and its log-probabilities behind each of IDS."""
    global folders
    folders += 1
    folder = Path(f"{kind}_{folders}")
    untied = says == TIED
    config = AutoConfig.for_model(kind, **(SIZES | OWN.get(kind, {}) | says | ({"tie_word_embeddings": False} if untied else {})))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    letters = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(NAMES)}, merges=[]))
    special = dict(zip(("unk_token", "bos_token", "eos_token"), NAMES))
    PreTrainedTokenizerFast(tokenizer_object=letters, **special).save_pretrained(folder)
    said = json.loads(Path(folder, "config.json").read_text())
    if ropes := said.get("rope_parameters"):
        full = ropes.get("full_attention", ropes)
        said["rope_theta"] = full["rope_theta"]
        said |= {"partial_rotary_factor": full["partial_rotary_factor"]} if "partial_rotary_factor" in full else {}
        if "sliding_attention" in ropes:
            said["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    if untied:
        said |= TIED
    Path(folder, "config.json").write_text(json.dumps(said))
    with torch.no_grad():
        wanted = model(torch.tensor([IDS])).logits[0].log_softmax(-1).numpy()
        again = AutoModelForCausalLM.from_pretrained(folder).eval()(torch.tensor([IDS])).logits[0].log_softmax(-1)
    assert np.abs(again.numpy() - wanted).max() < 1e-3, (kind, says)
    return folder, wanted


def by_mlx(folder):
    model, _ = load_model(folder)
    logits = model(mx.array([IDS]))[0]
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def by_ctranslate2(folder):
    ctranslate2.converters.TransformersConverter(str(folder)).convert(f"{folder}_ct2", force=True)
    generator = ctranslate2.Generator(f"{folder}_ct2", "cpu")
    found = generator.forward_batch([[NAMES[token] for token in IDS]], return_log_probs=True)
    return np.array(found)[0, :, :64]


READ = {"mlx-lm": by_mlx, "ctranslate2": by_ctranslate2}
print(*(f"{name} {version(name)}" for name in ("transformers", "mlx-lm", "ctranslate2")), sep=", ")
for kind, says, engines, wrong in CASES:
    folder, wanted = write(kind, says)
    off = {engine: float(np.abs(READ[engine](folder) - wanted).max()) for engine in engines}
    said = ", ".join(f"{name} {value}" for name, value in says.items())
    print(f"{kind:11} {said:40}", ", ".join(f"{engine} off by {far:.3f}" for engine, far in off.items()), flush=True)
    for engine, far in off.items():
        assert far > 0.3 if engine in wrong else far < 0.02, (kind, says, engine, far)
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { tail -n 4 said; exit 1; }
