"""Checkpoints in the formats of bitsandbytes, torchao and compressed-tensors give the tokens of
`generate`, wherever the package is installed (`pip install 'batchgen-llm[quantized]'`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_runs import tokens_in_order
from parity_oracle import Oracle, assert_parity
from tiny_models import tiny_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    CompressedTensorsConfig,
    TorchAoConfig,
)

from batchgen.engine.config import EngineConfig
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import load_engine

PROMPTS = [[5, 6, 7], list(range(10, 40)), [3] * 9, [8, 80, 18, 4]]
NUM_TOKENS = 12
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
ROUNDED_INPUTS = 0.2
"""Of a logit: what a layer may differ by that rounds its inputs (see `Quantized.note`)."""
LOAD: Any = AutoModelForCausalLM.from_pretrained


def plain(folder: Path) -> Path:
    """Wide enough for groups of 128 weights."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    tiny_model("llama", **sizes).save_pretrained(folder)
    return folder


def quantize_at_load(folder: Path, device: str, config: Any) -> None:
    source = plain(folder / "plain")
    LOAD(source, quantization_config=config, device_map=device).save_pretrained(folder)


def save_int8(folder: Path, device: str) -> None:
    pytest.importorskip("bitsandbytes")
    quantize_at_load(folder, device, BitsAndBytesConfig(load_in_8bit=True))


def save_nf4(folder: Path, device: str) -> None:
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantize_at_load(folder, device, config)


def save_torchao(folder: Path, device: str) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    quantize_at_load(folder, device, config)


def save_compressed(folder: Path, device: str, scheme: str) -> None:
    pytest.importorskip("compressed_tensors", exc_type=ImportError)
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    module = LOAD(plain(folder / "plain"))
    groups = {"config_groups": {scheme: ["Linear"]}, "ignore": ["lm_head"]}
    apply_quantization_config(module, QuantizationConfig(**groups))
    for part in module.modules():
        scale = getattr(part, "weight_scale", None)
        if scale is not None:
            bits = part.quantization_scheme.weights.num_bits
            most = 448 if part.quantization_scheme.weights.type == "float" else 2 ** (bits - 1) - 1
            rows = part.weight.detach().unflatten(1, (scale.shape[1], -1)).abs().amax(-1)
            scale.data.copy_(rows / most)
    compressor = ModelCompressor.from_pretrained_model(module)
    compressor.compress_model(module)
    module.save_pretrained(folder)
    compressor.update_config(str(folder))


def save_w8a16(folder: Path, device: str) -> None:
    save_compressed(folder, device, "W8A16")


def save_fp8_dynamic(folder: Path, device: str) -> None:
    save_compressed(folder, device, "FP8_DYNAMIC")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("save", [save_int8, save_nf4, save_torchao, save_w8a16, save_fp8_dynamic])
def test_a_quantised_checkpoint_gives_the_tokens_of_generate(
    save: Callable[[Path, str], None], device: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages' own, while they write
        save(tmp_path, device)
        engine = load_engine(
            EngineConfig(model=tmp_path, device=device, num_blocks=64, max_num_seqs=8)
        )
        more = {}
        if save is save_fp8_dynamic and device == "cpu":  # where inputs are not rounded
            more["quantization_config"] = CompressedTensorsConfig(dequantize=True)
        module = LOAD(tmp_path, device_map=device, attn_implementation="eager", **more).eval()
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    requests = [Request(index, prompt, params) for index, prompt in enumerate(PROMPTS)]
    actual = tokens_in_order(engine, requests)
    oracle = Oracle(module)
    expected = [oracle.generate(prompt, NUM_TOKENS) for prompt in PROMPTS]
    if save is save_int8 or (save is save_fp8_dynamic and device != "cpu"):
        assert_parity(oracle, PROMPTS, expected, actual, near_tie=ROUNDED_INPUTS, share=1)
    else:
        assert_parity(oracle, PROMPTS, expected, actual)
