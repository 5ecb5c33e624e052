#!/usr/bin/env bash
# A prompt whose first 14 tokens were read before, as the instruction is that all rows of a job begin with, and kept
# (`use_cache=True`): the other 10 read behind it at once, one by one, and both together without a cache. Small models of
# kinds that keep a state instead of, or beside, keys and values, told the tokens' positions.
#
# Seen with transformers 5.24.0, torch 2.13.0 on a CPU:
#   Read at once behind a kept prefix, mamba, falcon_mamba, jamba and minimax are off, the first two by nearly as much
#   as if there had been no prefix: log-probabilities by 14 and 13, minimax by 1.1, jamba by 0.4. One token at a time
#   all of them are right, and so is `generate` from the beginning, which does that. mamba2, bamba, lfm2, qwen3_next,
#   olmo_hybrid, falcon_h1, nemotron_h, granitemoehybrid and llama are right both ways. Not told the positions, bamba
#   and minimax count them from 0 behind the prefix, one by one too, which llama and the others do not. No warning.
# So the recipe that reads an instruction once and each row behind it gives rows that forgot the instruction, and scores
# of answers behind a kept prompt are of answers to nothing, by the kind of the model alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.24.0
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# each kind takes of these the names that it knows
SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, head_dim=8,
    num_key_value_heads=2, max_position_embeddings=256, num_experts=4, num_experts_per_tok=2, num_local_experts=4,
    moe_intermediate_size=32, shared_expert_intermediate_size=32, shared_intermediate_size=32, state_size=16,
    num_heads=8, n_groups=1, expand=2, chunk_size=8, block_size=8, attn_layer_period=2, attn_layer_offset=1,
    mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=16, mamba_chunk_size=8, mamba_d_ssm=64,
    mamba_dt_rank=4, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
    mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=16, attn_layer_indices=[1],
    pad_token_id=0,
)  # fmt: skip
LAYERS = {"minimax": "linear_attention", "qwen3_next": "linear_attention", "olmo_hybrid": "linear_attention"}
LAYERS |= {"lfm2": "conv", "granitemoehybrid": "mamba"}
FORGET = ("mamba", "falcon_mamba", "jamba", "minimax")
KEEP = ("mamba2", "bamba", "lfm2", "qwen3_next", "olmo_hybrid", "falcon_h1", "nemotron_h", "granitemoehybrid", "llama")
COUNT = ("bamba", "minimax")
ALONE = ("mamba", "falcon_mamba", "mamba2")
KEPT, WHOLE = 14, 24


def model_of(kind):
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if name in AutoConfig.for_model(kind).to_dict()}
    if kind in LAYERS:
        sizes["layer_types"] = [LAYERS[kind], "attention" if LAYERS[kind] == "mamba" else "full_attention"] * 2
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)
    return model


def behind(model, kind, step, told=True):
    """The log-probabilities of what is read behind the kept prefix, `step` tokens at a time."""
    name = "cache_params" if kind in ALONE else "past_key_values"
    kept = getattr(model(tokens[:, :KEPT], use_cache=True), name)
    parts = []
    for start in range(KEPT, WHOLE, step):
        end = start + step
        places = {"position_ids": torch.arange(start, end)[None]} if told and kind not in ALONE else {}
        read = model(tokens[:, start:end], use_cache=True, **{name: kept}, **places)
        kept = getattr(read, name)
        parts.append(read.logits.log_softmax(-1))
    return torch.cat(parts, 1)


torch.manual_seed(1)
tokens = torch.randint(3, 64, (1, WHOLE))
print(f"transformers {version('transformers')}, torch {version('torch')}")
with torch.no_grad():
    for kind in FORGET + KEEP:
        model = model_of(kind)
        whole = model(tokens, use_cache=False).logits.log_softmax(-1)[:, KEPT:]
        alone = model(tokens[:, KEPT:], use_cache=False).logits.log_softmax(-1)
        ways = [(WHOLE - KEPT, True), (1, True), (1, False)]
        once, steps, untold = (float((behind(model, kind, *way) - whole).abs().max()) for way in ways)
        without = float((alone - whole).abs().max())
        print(f"    {kind:17} at once off by {once:.4f}, one by one {steps:.4f}, ", end="")
        print(f"one by one without positions {untold:.4f}; without the prefix {without:.4f}")
        assert steps < 0.01 and without > 0.1, kind
        assert (once > 0.1) == (kind in FORGET) and (once < 0.01) == (kind in KEEP), kind
        assert (untold > 0.1) == (kind in COUNT) and (untold < 0.01) == (kind not in COUNT), kind
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
