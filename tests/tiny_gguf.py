"""Tiny GGUF files of every architecture that is served: random weights, as llama.cpp wants them.

Written from llama.cpp's side (names, shapes, keys), so that a mistake in how they are read shows.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, HEADS, KV, SIZE, FF, VOCAB, CONTEXT = 64, 4, 2, 16, 96, 264, 512
RMS, LAYER = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
PROMPT = [37, 235, 140, 72, 255, 137, 203, 133]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """`layer`: tensors of each layer; `top`: the others. Shapes as numpy has them."""

    architecture: str
    keys: dict[str, Any]
    layer: dict[str, Shape]
    top: dict[str, Shape]
    layers: int = 3
    heads: tuple[int, int] = (HEADS, KV)
    values: dict[str, list[float]] = field(default_factory=dict)


def attention(bias: str = "", size: int = SIZE, kv: int = KV) -> dict[str, Shape]:
    """`bias`: the letters of those that have one, of q, k, v and o."""
    rows = {"q": HEADS * size, "k": kv * size, "v": kv * size}
    found: dict[str, Shape] = {f"attn_{n}.weight": (r, HIDDEN) for n, r in rows.items()}
    found["attn_output.weight"] = (HIDDEN, HEADS * size)
    rows["output"] = HIDDEN
    found |= {f"attn_{n}.bias": (r,) for n, r in rows.items() if n[0] in bias}
    return found


def gated(width: int = FF) -> dict[str, Shape]:
    up = {f"ffn_{n}.weight": (width, HIDDEN) for n in ("gate", "up")}
    return {**up, "ffn_down.weight": (HIDDEN, width)}


def plain(bias: bool = True) -> dict[str, Shape]:
    found: dict[str, Shape] = {"ffn_up.weight": (FF, HIDDEN), "ffn_down.weight": (HIDDEN, FF)}
    return found | ({"ffn_up.bias": (FF,), "ffn_down.bias": (HIDDEN,)} if bias else {})


def experts(count: int = 4, width: int = 48) -> dict[str, Shape]:
    return {
        "ffn_gate_inp.weight": (count, HIDDEN),
        "ffn_gate_exps.weight": (count, width, HIDDEN),
        "ffn_up_exps.weight": (count, width, HIDDEN),
        "ffn_down_exps.weight": (count, HIDDEN, width),
    }


def norms(*names: str, bias: bool = False, size: int = HIDDEN) -> dict[str, Shape]:
    found: dict[str, Shape] = {f"{name}.weight": (size,) for name in names}
    return found | ({f"{name}.bias": (size,) for name in names} if bias else {})


def scaled(layer: dict[str, Shape]) -> dict[str, Shape]:
    """A scale beside each matrix, of its inputs too: one number, or one an expert."""
    found: dict[str, Shape] = {}
    for name, shape in layer.items():
        if len(shape) > 1 and name != "ffn_gate_inp.weight":
            size = (shape[0] if len(shape) > 2 else 1,)
            found |= {f"{name.removesuffix('weight')}{n}": size for n in ("scale", "input_scale")}
    return found


TWO = norms("attn_norm", "ffn_norm")
TOP: dict[str, Shape] = {
    "token_embd.weight": (VOCAB, HIDDEN),
    "output_norm.weight": (HIDDEN,),
    "output.weight": (VOCAB, HIDDEN),
}
TIED = {k: v for k, v in TOP.items() if k != "output.weight"}
BIASED = TOP | {"output_norm.bias": (HIDDEN,)}
QK = norms("attn_q_norm", "attn_k_norm", size=SIZE)
POST = norms("post_attention_norm", "post_ffw_norm")
MOE = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 48}
LLAMA = TWO | attention() | gated()
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
ROT = {"rope.dimension_count": SIZE}
LENGTHS = {"attention.key_length": SIZE, "attention.value_length": SIZE}
FACTORS = [1.0, 1.0, 1.1, 1.7, 2.9, 5.0, 8.0, 8.0]
QKV: dict[str, Shape] = {"attn_qkv.weight": ((HEADS + 2 * KV) * SIZE, HIDDEN)}
SQUARE: dict[str, Shape] = {"attn_qkv.weight": (3 * HIDDEN, HIDDEN), "attn_qkv.bias": (3 * HIDDEN,)}
OUT: dict[str, Shape] = {"attn_output.weight": (HIDDEN, HIDDEN)}
OUT_BIAS: dict[str, Shape] = {"attn_output.bias": (HIDDEN,)}
GATE_UP: dict[str, Shape] = {"ffn_up.weight": (2 * FF, HIDDEN), "ffn_down.weight": (HIDDEN, FF)}
ROPED = {"rope_freqs.weight": (SIZE // 2,)}
LONG: dict[str, Shape] = {f"rope_factors_{n}.weight": (SIZE // 2,) for n in ("long", "short")}
GPT_OSS_EXPERTS = {f"ffn_{n}_exps.bias": (4, 48) for n in ("gate", "up")}
SHARED = {f"ffn_{n}_shexp.weight": (40, HIDDEN) for n in ("gate", "up")}


def _cases() -> dict[str, Case]:
    rms, layer = {RMS: 1e-5}, {LAYER: 1e-5}
    scales = {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0}
    scales |= {"attention.scale": 0.4}
    phi3 = TWO | QKV | OUT | GATE_UP
    gemma2 = TWO | POST | attention() | gated()
    swa = {"attention.sliding_window": 16}
    gpt_oss = norms("attn_norm", "post_attention_norm") | attention("qkvo") | experts()
    gpt_oss |= GPT_OSS_EXPERTS | {"ffn_down_exps.bias": (4, HIDDEN), "ffn_gate_inp.bias": (4,)}
    gpt_oss |= {"attn_sinks.weight": (HEADS,)}
    moe2 = TWO | attention("qkv") | experts() | SHARED
    moe2 |= {"ffn_down_shexp.weight": (HIDDEN, 40), "ffn_gate_inp_shexp.weight": (HIDDEN,)}
    star = norms("attn_norm", "ffn_norm", bias=True) | attention("qkvo") | plain()
    stable = norms("attn_norm", "ffn_norm", bias=True) | attention() | gated()
    side = {k: v for k, v in stable.items() if not k.startswith("ffn_norm")}
    phi2 = norms("attn_norm", bias=True) | SQUARE | OUT | OUT_BIAS | plain()
    glm4 = TWO | POST | attention("qkv") | GATE_UP
    post = norms("post_attention_norm", "post_ffw_norm") | attention() | gated()
    wide = norms("attn_q_norm", size=HEADS * SIZE) | norms("attn_k_norm", size=KV * SIZE)
    half = {"rope.dimension_count": SIZE // 2}
    neox = norms("attn_norm", "ffn_norm", bias=True) | SQUARE | OUT | OUT_BIAS | plain()
    mixed = TWO | attention() | experts(width=FF)
    return {
        "llama": Case("llama", rms | ROT, LLAMA, TOP),
        "llama_tied": Case("llama", rms | ROT | {"rope.freq_base": 5e5}, LLAMA, TIED),
        "llama_rope_freqs": Case(
            "llama", rms | ROT, LLAMA, TOP | ROPED, values={"rope_freqs.weight": FACTORS}
        ),
        "llama_linear": Case("llama", rms | ROT | LINEAR, LLAMA, TOP),
        "llama_old_linear": Case("llama", rms | ROT | {"rope.scale_linear": 2.0}, LLAMA, TOP),
        "llama_yarn": Case(
            "llama",
            rms | ROT | YARN | {"rope.scaling.attn_factor": 0.8},
            LLAMA,
            TOP,
        ),
        "llama_no_scaling": Case(
            "llama", rms | ROT | {**LINEAR, "rope.scaling.type": "none"}, LLAMA, TOP
        ),
        "llama_biases": Case("llama", rms | ROT, TWO | attention("qkvo") | gated(), TOP),
        "llama_qkv_biases": Case("llama", rms | ROT, TWO | attention("qkv") | gated(), TOP),
        "llama_head_size": Case(
            "llama",
            rms
            | {"attention.key_length": 24, "attention.value_length": 24}
            | {"rope.dimension_count": 24},
            TWO | attention(size=24) | gated(),
            TOP,
        ),
        "mixtral": Case(
            "llama", rms | ROT | {"expert_count": 4, "expert_used_count": 2}, mixed, TOP
        ),
        "llama_scales": Case("llama", rms | ROT, LLAMA | scaled(LLAMA), TOP),
        "mixtral_scales": Case(
            "llama",
            rms | ROT | {"expert_count": 4, "expert_used_count": 2},
            mixed | scaled(mixed),
            TOP,
        ),
        "qwen2": Case("qwen2", rms, TWO | attention("qkv") | gated(), TOP),
        "qwen2_yarn": Case("qwen2", rms | YARN, TWO | attention("qkv") | gated(), TOP),
        "qwen2moe": Case(
            "qwen2moe", rms | MOE | {"expert_shared_feed_forward_length": 40}, moe2, TOP
        ),
        "qwen3": Case("qwen3", rms | LENGTHS, LLAMA | QK, TIED),
        "qwen3_head_size": Case(
            "qwen3",
            rms | {"attention.key_length": 32, "attention.value_length": 32},
            TWO | attention(size=32) | gated() | norms("attn_q_norm", "attn_k_norm", size=32),
            TOP,
        ),
        "qwen3moe": Case("qwen3moe", rms | LENGTHS | MOE, TWO | attention() | QK | experts(), TOP),
        "gemma": Case("gemma", rms | LENGTHS, LLAMA, TIED),
        "gemma2": Case("gemma2", rms | LENGTHS | swa, gemma2, TIED),
        "gemma2_softcap": Case(
            "gemma2",
            rms | LENGTHS | swa | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
            gemma2,
            TIED,
        ),
        "gemma3": Case(
            "gemma3", rms | LENGTHS | swa | {"rope.freq_base": 1e6}, gemma2 | QK, TIED, 7
        ),
        "gemma3_linear": Case(
            "gemma3", rms | LENGTHS | swa | {"rope.freq_base": 1e6} | LINEAR, gemma2 | QK, TIED, 7
        ),
        "phi2": Case(
            "phi2", layer | half, phi2, BIASED | {"output.bias": (VOCAB,)}, heads=(HEADS, HEADS)
        ),
        "phi3": Case("phi3", rms | ROT, phi3, TOP),
        "phi3_partial": Case("phi3", rms | {"rope.dimension_count": 12}, phi3, TOP),
        "phi3_window": Case("phi3", rms | ROT | {"attention.sliding_window": 16}, phi3, TOP),
        "phi3_short": Case(
            "phi3",
            rms
            | ROT
            | {"rope.scaling.original_context_length": CONTEXT, "rope.scaling.attn_factor": 1.19},
            phi3,
            TOP | LONG,
            values={"rope_factors_short.weight": FACTORS, "rope_factors_long.weight": [9.0] * 8},
        ),
        "starcoder2": Case("starcoder2", layer | {"rope.freq_base": 1e6}, star, BIASED),
        "stablelm": Case("stablelm", layer | half, stable, BIASED),
        "stablelm_parallel": Case("stablelm", layer | half, side, BIASED),
        "stablelm_biases": Case(
            "stablelm", layer | half | {"rope.freq_base": 5e4}, stable | attention("qkv"), BIASED
        ),
        "gpt2": Case(
            "gpt2",
            layer,
            neox,
            BIASED | {"position_embd.weight": (CONTEXT, HIDDEN)},
            heads=(HEADS, HEADS),
        ),
        **{
            name: Case(
                "gptneox",
                layer | half | {"use_parallel_residual": parallel},
                neox,
                BIASED,
                heads=(HEADS, HEADS),
            )
            for name, parallel in (("gptneox", True), ("gptneox_serial", False))
        },
        "command-r": Case(
            "command-r",
            layer | {"logit_scale": 0.5},
            norms("attn_norm") | attention() | gated(),
            TIED,
        ),
        "cohere2": Case(
            "cohere2",
            layer | LENGTHS | swa | ROT | {"logit_scale": 0.5},
            norms("attn_norm") | attention() | gated(),
            TIED,
            4,
        ),
        "olmo": Case(
            "olmo",
            layer | {"attention.clamp_kqv": 0.9},
            attention() | gated(),
            {k: v for k, v in TOP.items() if k != "output_norm.weight"},
        ),
        "olmo2": Case("olmo2", rms, post | wide, TOP),
        "olmoe": Case(
            "olmoe",
            rms | {"expert_count": 4, "expert_used_count": 2},
            TWO
            | attention(kv=HEADS)
            | experts(width=FF)
            | norms("attn_q_norm", "attn_k_norm", size=HIDDEN),
            TOP,
            heads=(HEADS, HEADS),
        ),
        "granite": Case("granite", rms | scales, LLAMA, TIED),
        "granitemoe": Case(
            "granitemoe",
            rms | scales | {"expert_count": 4, "expert_used_count": 2},
            TWO | attention() | experts(width=FF),
            TIED,
        ),
        "chatglm": Case("chatglm", rms | half, TWO | QKV | OUT | GATE_UP, TOP),
        "glm4": Case("glm4", rms | half, glm4, TOP),
        "nemotron": Case(
            "nemotron",
            layer | half,
            norms("attn_norm", "ffn_norm", bias=True) | attention() | plain(bias=False),
            BIASED,
        ),
        "gpt-oss": Case("gpt-oss", rms | LENGTHS | MOE | swa | YARN, gpt_oss, TOP),
        "smollm3": Case("smollm3", rms | ROT, LLAMA, TIED, 4),
        "arcee": Case("arcee", rms | ROT, TWO | attention() | plain(bias=False), TOP),
        "ernie4_5": Case("ernie4_5", rms | LENGTHS, LLAMA, TIED),
        "hunyuan-dense": Case("hunyuan-dense", rms | LENGTHS, LLAMA | QK, TIED),
        "seed_oss": Case(
            "seed_oss",
            rms | LENGTHS,
            norms("attn_norm", "post_attention_norm") | attention("qkv") | gated(),
            TOP,
        ),
    }


CASES = _cases()


def tokens() -> list[str]:
    """Each is whole text, so that none waits for the next before it is shown."""
    return ["a", "b", "ab", "\u010a", *(f"w{i}" for i in range(VOCAB - 11))] + [
        f"<|x{i}|>" for i in range(7)
    ]


def write(
    path: Path,
    case: Case,
    leave_out: str | None = None,
    kind: Any = None,
    blocks: Mapping[str, tuple[Any, Any]] | None = None,
    **more: Any,
) -> Path:
    """`leave_out`: the name of a tensor that the file shall lack. `kind`: ggml's type of matrices.
    `blocks`: by name, the bytes of a tensor and their type. `more`: further whole keys; None leaves
    one out."""
    import gguf

    writer = gguf.GGUFWriter(path, case.architecture)
    for key, value in {**_keys(case), **more}.items():
        if value is not None:
            _add(writer, key, value)
    rng = np.random.default_rng(zlib.crc32(case.architecture.encode()))
    for name, shape in _tensors(case).items():
        values = case.values.get(name)
        data = _random(rng, name, shape) if values is None else np.float32(values)
        raw_dtype = kind if data.ndim == 2 else None
        if raw_dtype is not None:
            data = gguf.quants.quantize(data, kind)
        data, raw_dtype = (blocks or {}).get(name, (data, raw_dtype))
        if name != leave_out:
            writer.add_tensor(name, data, raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(case: Case) -> dict[str, Any]:
    own = {
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "block_count": case.layers,
        "feed_forward_length": FF,
        "attention.head_count": case.heads[0],
        "attention.head_count_kv": case.heads[1],
        "vocab_size": VOCAB,
        **case.keys,
    }
    return {f"{case.architecture}.{k}": v for k, v in own.items()} | {
        "general.file_type": 0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens(),
        "tokenizer.ggml.token_type": [3 if t.startswith("<|") else 1 for t in tokens()],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 261,
        "tokenizer.ggml.eos_token_id": 262,
    }


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _tensors(case: Case) -> dict[str, Shape]:
    layers = {f"blk.{i}.{n}": s for i in range(case.layers) for n, s in case.layer.items()}
    return case.top | layers


def _random(rng: np.random.Generator, name: str, shape: Shape) -> Any:
    data = rng.standard_normal(shape)
    if len(shape) == 1:
        data = data * 0.2 + name.endswith(("norm.weight", "scale"))
    elif not name.startswith(("token_embd", "output")):
        data *= 1.5 * shape[-1] ** -0.5
    else:
        data *= 0.4
    return data.astype(np.float32)
