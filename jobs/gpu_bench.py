"""What the benchmarks on GPUs share: shapes of models, lines of JSON, and times of graphs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copy
from typing import Any

__all__ = [
    "LLAMA", "LLAMA_8B", "LLAMA_70B", "QWEN_06B", "product_sizes", "replay_us", "save_random_model",
    "say",
]  # fmt: skip

BUILT_IN = Path(__file__).parent.parent / "batchgen" / "models" / "batchgen-tiny"

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": 8,
    "vocab_size": 128256, "hidden_act": "silu", "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
"""What Llama 3's sizes have in common."""
LLAMA_8B = LLAMA | {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32,
}  # fmt: skip
LLAMA_70B = LLAMA | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "initializer_range": 0.006,
}  # fmt: skip
QWEN_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
    "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "hidden_act": "silu",
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip


def say(**facts: Any) -> None:
    """One line of JSON."""
    print(json.dumps(facts), flush=True)


def product_sizes(shape: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each product of a decoder layer."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    heads = shape["num_attention_heads"]
    dim = shape.get("head_dim", width // heads)
    return {
        "qkv": ((heads + 2 * shape["num_key_value_heads"]) * dim, width),
        "o": (width, heads * dim),
        "gate_up": (2 * inner, width),
        "down": (width, inner),
    }


def save_random_model(folder: Path, config: Mapping[str, Any], dtype: str = "bfloat16") -> Path:
    """Random weights of the shape, with the built-in model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        copy(BUILT_IN / name, folder)
    own = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        make(own, dtype=getattr(torch, dtype)).save_pretrained(folder)
    torch.cuda.empty_cache()
    return folder


def replay_us(
    run: Callable[[], object],
    calls: int = 1,
    *,
    warm: int = 1,
    repeats: int = 10,
    before: Callable[[], object] = lambda: None,
) -> float:
    """Median microseconds of a call, of `calls` in a graph; `before` each replay, untimed."""
    import torch

    for _ in range(warm):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    times = []
    for _ in range(repeats):
        before()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return float(statistics.median(times))
