"""NVFP4, MXFP4 and MXFP8 checkpoints mean what their formats say; whatever does not fit is named
before weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity_oracle import Oracle, greedy_tokens
from quantized_folders import (
    CT,
    CT_FLOAT8,
    CT_GROUP,
    E2M1,
    SMALL_FLOATS,
    Format,
    Parts,
    ct_floats,
    modelopt_nvfp4,
    nvfp4,
    pack_quantized,
    per_channel,
    per_tensor,
    quark,
    quark_mxfp4,
    save_in_formats,
    save_quantized,
)
from safetensors.torch import load_file, save_file

from batchgen.engine.checkpoint.quantized import read_quantized
from batchgen.engine.config import EngineConfig
from batchgen.engine.quantization.float4 import read_float4
from batchgen.engine.run.factory import load_engine
from batchgen.engine.run.loader import load_model
from batchgen.errors import ModelRefusedError
from batchgen.job.ahead.model_size import shape_of
from batchgen.job.model.files import resolve_model

PROMPTS = [[5, 6, 7], list(range(10, 40))]
WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 2}


def ct_mixture(group: dict[str, Any], form: str) -> dict[str, Any]:
    """The group in its form, NVFP4 beside it."""
    (floats,) = ct_floats("nvfp4-pack-quantized", 4, 16)["config_groups"].values()
    groups = {
        "group_0": {**group, "format": form},
        "group_1": {**floats, "format": "nvfp4-pack-quantized"},
    }
    return {**CT, "format": "mixed-precision", "config_groups": groups}


MIXTURES: dict[str, tuple[Format, Format, dict[str, Any]]] = {
    "compressed-tensors": (per_channel, nvfp4, ct_mixture(CT_FLOAT8, "float-quantized")),
    "compressed-tensors with integers": (
        pack_quantized,
        nvfp4,
        ct_mixture(CT_GROUP, "pack-quantized"),
    ),
    "modelopt": (
        per_tensor,
        modelopt_nvfp4,
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4"}},
        },
    ),
    "quark": (
        per_tensor,
        quark_mxfp4,
        {
            **quark("fp4", "per_group", group_size=32, scale_format="e8m0"),
            "layer_quant_config": {
                "*self_attn*": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}},
            },
        },
    ),
}
"""Formats of attention and of the rest, and their description."""
LAYER = "model.layers.0.self_attn.q_proj"


def save_mixture(folder: Path, name: str) -> Any:
    """Save a tiny model in two formats; the dense model that the folder stands for."""
    attention, rest, described = MIXTURES[name]
    return save_in_formats(
        folder, lambda weight: attention if "self_attn" in weight else rest, described, **WIDE
    )


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_a_folder_gives_the_tokens_of_the_dense_model(name: str, tmp_path: Path) -> None:
    dense = save_quantized(tmp_path, name, **WIDE)
    model = EngineConfig(model=tmp_path, device="cpu", num_blocks=64, max_num_batched_tokens=8)
    engine = load_engine(model)
    oracle = Oracle(dense)
    assert greedy_tokens(engine, PROMPTS, 6) == [oracle.generate(prompt, 6) for prompt in PROMPTS]


def test_every_code_is_the_number_that_the_format_gives_it() -> None:
    held = (torch.arange(16) + 16 * torch.arange(16).flip(0)).to(torch.uint8)[None]
    wanted = torch.stack([E2M1, E2M1.flip(0)], dim=1).flatten()
    scale = torch.tensor([[127]], dtype=torch.uint8)
    found = read_float4({"weight_packed": held, "weight_scale": scale}, "mxfp4")
    assert found.dense(torch.float32)[0].tolist() == wanted.tolist()
    for exponent, value in ((0, 2.0**-127), (1, 2.0**-126), (254, 2.0**127)):
        scale = torch.tensor([[exponent]], dtype=torch.uint8)
        found = read_float4({"weight_packed": held, "weight_scale": scale}, "mxfp4")
        assert found.scales.item() == value


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nvfp4", {"weight_global_scale": None}, f"{LAYER}.weight_global_scale is missing"),
        ("nvfp4", {"weight_scale": None}, f"{LAYER}.weight_scale is missing"),
        ("nvfp4", {"weight_scale": torch.ones(64, 4)}, "is of type F32, not F8_E4M3"),
        ("nvfp4", {"weight_global_scale": torch.ones(64)}, r"has the shape \[64\]"),
        ("nvfp4", {"weight_zero_point": torch.ones(64, 4)}, "lies beside quantised weights"),
        ("modelopt nvfp4", {"weight_scale_2": None}, f"{LAYER}.weight_scale_2 is missing"),
        ("modelopt nvfp4", {"pre_quant_scale": torch.ones(64)}, "lies beside quantised weights"),
        ("mxfp4", {"weight_scale": torch.ones(64, 4, dtype=torch.uint8)}, r"\[64, 4\]"),
        ("mxfp4", {"weight_packed": torch.ones(64, dtype=torch.uint8)}, "which is none for groups"),
        ("mxfp8", {"weight_scale": torch.ones(64, 4, dtype=torch.uint8)}, r"one for each \(1"),
    ],
)  # fmt: skip
def test_what_is_missing_or_does_not_fit_is_named(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_quantized(tmp_path, name, **WIDE)
    file = tmp_path / "model.safetensors"
    state: Parts = load_file(file)
    for part, tensor in change.items():
        if tensor is None:
            del state[f"{LAYER}.{part}"]
        else:
            state[f"{LAYER}.{part}"] = tensor
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ModelRefusedError, match=message) as caught:
        load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_their_note_says_what_is_not_done(name: str) -> None:
    read = read_quantized({"quantization_config": SMALL_FLOATS[name][1]})
    assert read is not None
    assert "full size, and inputs are not rounded" in read.note
    assert ("KV cache" in read.note) == ("cache" in name)


@pytest.mark.parametrize("name", MIXTURES)
def test_layers_in_two_formats_are_each_read_in_theirs(name: str, tmp_path: Path) -> None:
    dense = save_mixture(tmp_path, name)
    engine = load_engine(EngineConfig(model=tmp_path, device="cpu", num_blocks=64))
    oracle = Oracle(dense)
    assert greedy_tokens(engine, PROMPTS, 6) == [oracle.generate(prompt, 6) for prompt in PROMPTS]
    shape = shape_of(resolve_model(str(tmp_path)), "float32")
    assert shape.num_parameters == sum(one.numel() for one in dense.parameters())


def test_two_formats_that_tensors_do_not_tell_apart_are_refused_by_name() -> None:
    described = SMALL_FLOATS["nvfp4"][1]
    int8 = {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}
    for group in (int8, ct_floats("mxfp4-pack-quantized", 4, 32)["config_groups"]["group_0"]):
        groups = {
            **described["config_groups"],
            "group_1": {**group, "format": "mxfp4-pack-quantized"},
        }
        read = read_quantized({"quantization_config": {**described, "config_groups": groups}})
        assert read is not None
        with pytest.raises(
            ModelRefusedError, match=r"other formats in others|differ in their form"
        ):
            read.check_served("m")


def test_floats_of_six_bits_are_dequantised_though_inputs_were_to_be_rounded() -> None:
    """By their package, whose layers would fail."""
    read = read_quantized({"quantization_config": ct_floats("mxfp6-pack-quantized", 6, 32)})
    assert read is not None
    assert read.is_dense
    assert "inputs are not rounded" in read.note


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "modelopt nvfp4", "mxfp8"])
def test_plan_counts_them_at_their_full_size(name: str, tmp_path: Path) -> None:
    dense = save_quantized(tmp_path, name, **WIDE)
    shape = shape_of(resolve_model(str(tmp_path)), "bfloat16")
    assert shape.num_parameters == sum(one.numel() for one in dense.parameters())
    assert shape.weight_bytes == 2 * shape.num_parameters
