#!/usr/bin/env bash
# A prompt of 12 tokens by mlx-lm's `batch_generate`, alone, beside another of 12 and beside one of 25: small models
# of kinds that keep a state instead of, or beside, keys and values; and by transformers, for five of them.
#
# Seen with mlx-lm 0.32.2, mlx 0.32.4 on CPUs, transformers 5.24.0, torch 2.13.0:
#   Beside the longer prompt mamba, jamba, nemotron_h, recurrent_gemma, rwkv7 and baichuan_m1 write another answer to
#   the short one: its padding, in front of it, goes into the state as if it were text. mamba2, lfm2, qwen3_next,
#   granitemoehybrid, falcon_h1 and llama give what they give alone, and so does every kind beside a prompt
#   of the same length, and for the longest row of a batch. transformers, told what is padding, is right for mamba,
#   jamba, nemotron_h and recurrent_gemma. Its rwkv is wrong in any batch from the second new token on, the rows of
#   one length and the longest row too, and from the first one on where there is padding. Nobody warns.
# So all rows of a job but the longest of each batch are answered as if they began with other text, the more so the
# shorter they are, and a score falls with the size of the batch. Batches of one length, or of one row, are right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.24.0 mlx-lm==0.32.2 mlx==0.32.4 mlx-cpu==0.32.4 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_map
from mlx_lm import batch_generate
from transformers import AutoConfig, AutoModelForCausalLM

mx.set_default_device(mx.cpu)
NEW = 8
# each kind takes of these the names that it knows
SIZES = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, head_dim=8,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, norm_eps=1e-5, layer_norm_epsilon=1e-5,
    bos_token_id=1, pad_token_id=0, rope_theta=1e4, attention_bias=False, mlp_bias=False, tie_word_embeddings=False,
    num_experts=4, num_experts_per_tok=2, num_local_experts=4, moe_intermediate_size=32, mlp_only_layers=[],
    shared_intermediate_size=32, shared_expert_intermediate_size=32, decoder_sparse_step=1, norm_topk_prob=True,
    partial_rotary_factor=0.5, state_size=16, ssm_state_size=16, conv_kernel=4, time_step_rank=4, use_bias=False,
    use_conv_bias=True, time_step_limit=(0.0, float("inf")), n_groups=1, chunk_size=8, expand=2, num_heads=8,
    mamba_num_heads=8, mamba_head_dim=8, mamba_n_heads=8, mamba_d_head=8, mamba_d_ssm=64, mamba_d_state=16,
    mamba_d_conv=4, mamba_n_groups=1, mamba_conv_bias=True, mamba_proj_bias=False, mamba_rms_norm=False,
    mamba_norm_before_gate=False, mamba_expand=2, mamba_dt_rank=4, use_mamba_kernels=False,
    hybrid_override_pattern="M*M-", attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1,
    expert_layer_period=2, attention_window_size=16, block_types=["recurrent", "recurrent", "attention"], conv1d_width=4,
    logits_soft_cap=30.0, lru_width=32, embeddings_scale_by_sqrt_dim=True, norm_bias=True, a_low_rank_dim=8,
    v_low_rank_dim=8, gate_low_rank_dim=8, decay_low_rank_dim=8, conv_window=2, sliding_window_layers=[1],
    sliding_window=64, num_swa_attention_heads=4, num_swa_key_value_heads=2, block_dim=32, block_ff_dim=64,
    block_multiple_of=8, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=False, conv_bias=False, conv_L_cache=3,
    full_attn_idxs=[1, 3], linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=32,
    linear_value_head_dim=32, linear_conv_kernel_dim=4, full_attention_interval=2, position_embedding_type="rope",
    logits_scaling=1.0, embedding_multiplier=1.0, attention_multiplier=0.35, residual_multiplier=1.0,
    attention_hidden_size=32,
)  # fmt: skip
OWN = {"rwkv7": {"head_dim": 16, "num_heads": 2}, "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2}}
OWN |= {"mamba2": {"ssm_state_size": None}}
WRONG = ("mamba", "jamba", "nemotron_h", "recurrent_gemma", "rwkv7", "baichuan_m1")
RIGHT = ("mamba2", "lfm2", "qwen3_next", "granitemoehybrid", "falcon_h1", "llama")
draw = np.random.default_rng(1)
SHORT, SAME, LONG = (draw.integers(3, 64, length).tolist() for length in (12, 12, 25))
letters = SimpleNamespace(eos_token_ids=[], decode=str)


def stirred(weight):
    """Matrices that make a difference: three times what they are, and noise where they are made of zeros."""
    if weight.ndim < 2:
        return weight
    return weight * 3 if mx.abs(weight).max() > 0 else mx.random.normal(weight.shape) / 10


def mlx_answers(kind):
    """Gives the tokens of each prompt of a batch, by a model of random weights."""
    module = import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict(SIZES | OWN.get(kind, {}) | {"model_type": kind}))
    model.update(tree_map(stirred, model.parameters()))
    return lambda *prompts: batch_generate(
        model, letters, list(prompts), max_tokens=NEW, return_token_ids=True
    ).token_ids


def transformers_answers(kind):
    torch.manual_seed(0)
    known = AutoConfig.for_model(kind).to_dict().keys() | {"hybrid_override_pattern", "num_hidden_layers"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{k: SIZES[k] for k in SIZES.keys() & known}))
    with torch.no_grad():
        for weight in model.eval().parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)

    def answers(*prompts):
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        asked = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(ids, attention_mask=mask, **asked)[:, width:].tolist()

    return answers


print(*(f"{name} {version(name)}" for name in ("mlx-lm", "mlx", "transformers", "torch")), sep=", ")
ways = [("mlx-lm", mlx_answers, WRONG + RIGHT), ("transformers", transformers_answers, WRONG[:4] + ("rwkv",))]
for library, load, kinds in ways:
    for kind in kinds:
        answers = load(kind)
        alone, longer, equal = answers(SHORT)[0], answers(LONG)[0], answers(SHORT, SAME)[0]
        beside, found = answers(SHORT, LONG)
        told = ["the same" if tokens == alone else tokens for tokens in (beside, equal)]
        print(f"    {library:12} {kind:16} alone {alone}, beside a longer one {told[0]}, beside an equal one {told[1]}")
        assert (beside == alone) == (kind in RIGHT or library == "transformers" and kind != "rwkv"), kind
        assert (len(alone), equal == alone, found == longer) == (NEW, kind != "rwkv", kind != "rwkv"), kind
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
