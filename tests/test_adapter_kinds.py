"""DoRA's magnitudes and biases of low-rank products: by their formulas, merged and row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from lora_folders import PREFIX, lora_folder
from parity_oracle import Oracle, assert_parity
from safetensors.torch import load_file, save_file
from test_adapters import CHOICES, NUM_TOKENS, PROMPTS, adapter, answers
from tiny_models import tiny_model
from transformers.pytorch_utils import Conv1D

from batchgen.cli.main import cli
from batchgen.errors import ModelRefusedError

TYPES = {
    "llama": ["q_proj", "v_proj", "down_proj"],  # without biases
    "qwen2": ["k_proj", "up_proj"],  # with and without
    "gpt2": ["c_attn", "c_proj"],  # weights lie the other way
}
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "use_rslora": True},
    "bias": {"lora_bias": True},
}


def merged_by_formula(module: Any, folder: Path, scale: float) -> Any:
    """Each output's row of W + scale B A, in the length that its magnitude says if it has one; the
    layer's bias with scale times the product's own."""
    halves = load_file(folder / "adapter_model.safetensors")
    for name in {key.removeprefix(PREFIX).partition(".lora_")[0] for key in halves}:
        part = module.get_submodule(name)
        own = {k.partition(".lora_")[2]: v.double() for k, v in halves.items() if f"{name}." in k}
        weight = part.weight.data.double()
        weight = weight.t() if isinstance(part, Conv1D) else weight
        weight = weight + scale * own["B.weight"] @ own["A.weight"]
        if "magnitude_vector" in own:
            weight = torch.stack(
                [
                    row / row.square().sum().sqrt() * m
                    for row, m in zip(weight, own["magnitude_vector"], strict=True)
                ]
            )
        part.weight.data = (weight.t() if isinstance(part, Conv1D) else weight).float().contiguous()
        if "B.bias" in own:
            bias = 0 if part.bias is None else part.bias.data.double()
            part.bias = torch.nn.Parameter((bias + scale * own["B.bias"]).float())
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", TYPES)
def test_tokens_are_the_formula_s_whether_merged_or_chosen_by_rows(
    tmp_path: Path, model_type: str, kind: str
) -> None:
    tiny_model(model_type).save_pretrained(tmp_path / "model")
    for seed, name in enumerate("ab"):
        settings = KINDS[kind] if name == "a" else {}  # b: a plain one beside it
        lora_folder(tmp_path / name, tiny_model(model_type), TYPES[model_type], seed, **settings)
    scales = {"a": 4.0 if kind == "dora" else 2.0, "b": 2.0}  # 8 / sqrt(4), 8 / 4
    oracles = {"": Oracle(tiny_model(model_type))} | {
        name: Oracle(merged_by_formula(tiny_model(model_type), tmp_path / name, scale))
        for name, scale in scales.items()
    }
    expected = {
        name: [oracle.generate(prompt, NUM_TOKENS) for prompt in PROMPTS]
        for name, oracle in oracles.items()
    }
    assert expected["a"] != expected[""]
    merged = answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * len(PROMPTS))
    assert_parity(oracles["a"], PROMPTS, expected["a"], merged)
    both = [adapter(tmp_path, "a"), adapter(tmp_path, "b")]
    for config in ({}, {"max_num_batched_tokens": 7, "max_num_seqs": 3, "block_size": 4}):
        mixed = answers(tmp_path / "model", both, CHOICES, **config)
        for row, choice in enumerate(CHOICES):
            wanted = [expected[choice][row]]
            assert_parity(oracles[choice], [PROMPTS[row]], wanted, [mixed[row]])


def test_magnitudes_are_read_under_either_name_that_peft_gave_them(tmp_path: Path) -> None:
    module = tiny_model("llama")
    module.save_pretrained(tmp_path / "model")
    file = (
        lora_folder(tmp_path / "a", module, ["q_proj"], use_dora=True) / "adapter_model.safetensors"
    )
    wanted = answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * len(PROMPTS))
    end = "lora_magnitude_vector"
    renamed = {k.replace(end, f"{end}.default.weight"): v for k, v in load_file(file).items()}
    save_file(renamed, file)
    assert answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * len(PROMPTS)) == wanted


def test_magnitudes_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    module = tiny_model("llama")
    module.save_pretrained(tmp_path / "model")
    file = (
        lora_folder(tmp_path / "a", module, ["q_proj"], use_dora=True) / "adapter_model.safetensors"
    )
    key = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    save_file(load_file(file) | {key: torch.ones(5)}, file)
    with pytest.raises(
        ModelRefusedError, match=r"a magnitude of \[5\] for model.*of another model"
    ):
        answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * len(PROMPTS))


WHOLE: dict[str, dict[str, Any]] = {
    "lm_head.weight": {"modules_to_save": ["lm_head"]},
    "model.embed_tokens.weight": {"modules_to_save": ["embed_tokens"]},
    "model.layers.1.post_attention_layernorm.weight": {"modules_to_save": ["norm", "other"]},
    "model.layers.1.self_attn.k_proj.bias": {"bias": "all"},
    "model.layers.1.self_attn.q_proj.bias": {"bias": "lora_only"},
    "model.embed_tokens.token_adapter.trainable_tokens_delta": {
        "trainable_token_indices": {"embed_tokens": [7, 5, 11]}
    },
}
"""A weight of the base model that was trained too -> what the config says of it."""


def whole_folder(folder: Path, module: Any, key: str) -> torch.Tensor:
    """An adapter with a weight of that name; its values."""
    lora_folder(folder, module, ["q_proj"], **WHOLE[key])
    file = folder / "adapter_model.safetensors"
    own = key.partition(".token_adapter")[0]
    name = own if own == key else f"{own}.weight"
    shape = module.get_parameter(name).shape if own == key else (3, 32)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    written = key.replace("q_proj.bias", "q_proj.base_layer.bias")
    save_file(load_file(file) | {PREFIX + written: values}, file)
    return values


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("key", WHOLE)
def test_weights_that_were_trained_whole_take_the_place_of_the_model_s(
    tmp_path: Path, key: str, tied: bool
) -> None:
    """Head and embedding apart where one of them was; rows are of both where both are one."""
    module = tiny_model("qwen2", tie_word_embeddings=tied)
    module.save_pretrained(tmp_path / "model")
    values = whole_folder(tmp_path / "a", module, key)
    file = tmp_path / "a" / "adapter_model.safetensors"
    products = {k: v for k, v in load_file(file).items() if ".lora_" in k}
    save_file(products, tmp_path / "products.safetensors")
    if "token_adapter" in key:
        module.model.embed_tokens.weight.data[[7, 5, 11]] = values
    else:
        name, _, kind = key.rpartition(".")
        setattr(module.get_submodule(name), kind, torch.nn.Parameter(values.clone()))
    for name, part in module.named_modules():
        if name.endswith("q_proj"):
            own = {half: products[f"{PREFIX}{name}.lora_{half}.weight"] for half in "AB"}
            part.weight.data += 2.0 * own["B"] @ own["A"]
    oracle = Oracle(module)
    expected = [oracle.generate(prompt, NUM_TOKENS) for prompt in PROMPTS]
    got = answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * len(PROMPTS))
    assert_parity(oracle, PROMPTS, expected, got)
    without = Oracle(tiny_model("qwen2", tie_word_embeddings=tied))
    assert expected != [without.generate(prompt, NUM_TOKENS) for prompt in PROMPTS]
    with pytest.raises(ModelRefusedError, match="no row can choose that") as caught:
        answers(tmp_path / "model", [adapter(tmp_path, "a")], [""] * len(PROMPTS))
    assert "the one --adapter" in caught.value.hint
    result = CliRunner().invoke(cli, ["inspect", str(tmp_path / "a"), "--json"])
    assert json.loads(result.stdout)["refused"] == []
    assert json.loads(result.stdout)["replaced"] == 1


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("lm_head.weight", (99, 32), "this model has one of .* or of more tokens"),
        ("model.layers.1.self_attn.k_proj.bias", (5,), "this model has one of"),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 32), "for 3 tokens"),
    ],
)
def test_such_weights_of_another_model_are_refused_by_name(
    tmp_path: Path, key: str, shape: tuple[int, ...], words: str
) -> None:
    module = tiny_model("qwen2")
    module.save_pretrained(tmp_path / "model")
    whole_folder(tmp_path / "a", module, key)
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file(load_file(file) | {PREFIX + key: torch.ones(shape)}, file)
    with pytest.raises(ModelRefusedError, match=words):
        answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * len(PROMPTS))


def test_inspect_finds_nothing_to_refuse_in_them(tmp_path: Path) -> None:
    for kind, settings in KINDS.items():
        folder = lora_folder(tmp_path / kind, tiny_model("llama"), ["q_proj"], **settings)
        result = CliRunner().invoke(cli, ["inspect", str(folder), "--json"])
        assert json.loads(result.stdout)["refused"] == []
        assert result.exit_code == 0
