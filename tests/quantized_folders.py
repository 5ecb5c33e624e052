"""Tiny models saved in the formats of quantised checkpoints, packed here as those are defined, and
the dense model that each stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

GROUP = 16
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Parts = dict[str, torch.Tensor]
Format = Callable[[torch.Tensor, torch.Generator], tuple[Parts, torch.Tensor]]
"""A dense weight [outputs, inputs] -> the layer's tensors, and the weight that they stand for."""


def packed(codes: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """int32 [rows, columns / 8]: bits 4 i to 4 i + 3 of a word are column order[i] of its eight."""
    words = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
    for place, column in enumerate(order):
        words |= codes[:, column::8].long() << (4 * place)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def numbers(weight: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Codes [outputs, inputs], zero points and scales [outputs, groups] at random."""
    outputs, inputs = weight.shape
    codes = torch.randint(0, 16, (outputs, inputs), generator=draw)
    zeros = torch.randint(0, 16, (outputs, inputs // GROUP), generator=draw)
    scales = torch.rand(outputs, inputs // GROUP, generator=draw) * 0.04 + 0.02
    return codes, zeros, scales


def awq(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    codes, zeros, scales = numbers(weight, draw)
    parts = {
        "qweight": packed(codes.T, AWQ_ORDER),
        "qzeros": packed(zeros.T, AWQ_ORDER),
        "scales": scales.T.contiguous(),
    }
    return parts, (codes - zeros.repeat_interleave(GROUP, 1)) * scales.repeat_interleave(GROUP, 1)


def gptq(
    weight: torch.Tensor, draw: torch.Generator, *, act_order: bool = False, offset: int = 1
) -> tuple[Parts, torch.Tensor]:
    """`offset`: what zero points are stored less. The range that AutoGPTQ has is 1 to 16."""
    codes, zeros, scales = numbers(weight, draw)
    zeros = zeros.clamp_min(offset)
    groups = torch.arange(weight.shape[1]) // GROUP
    if act_order:
        groups = groups[torch.randperm(weight.shape[1], generator=draw)]
    parts = {
        "qweight": packed(codes).T.contiguous(),
        "qzeros": packed((zeros - offset).T),
        "scales": scales.T.contiguous(),
        "g_idx": groups.int(),
    }
    return parts, (codes - zeros[:, groups]) * scales[:, groups]


def gptq_act_order(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    return gptq(weight, draw, act_order=True)


def gptq_v2(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    return gptq(weight, draw, offset=0)


def pack_quantized(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    """Symmetric: a code of 8 stands for zero."""
    codes, _, scales = numbers(weight, draw)
    parts = {
        "weight_packed": packed(codes),
        "weight_scale": scales,
        "weight_shape": torch.tensor(weight.shape),
    }
    return parts, (codes - 8) * scales.repeat_interleave(GROUP, 1)


def pack_asymmetric(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    """Zero points in words along the outputs, as signed as the codes are."""
    codes, zeros, scales = numbers(weight, draw)
    parts = {
        "weight_packed": packed(codes),
        "weight_scale": scales,
        "weight_zero_point": packed(zeros.T).T.contiguous(),
        "weight_shape": torch.tensor(weight.shape),
    }
    dense = (codes - zeros.repeat_interleave(GROUP, 1)) * scales.repeat_interleave(GROUP, 1)
    return parts, dense


def float8(weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, and the weight that they stand for."""
    values = (weight / scale).to(torch.float8_e4m3fn)
    return values, values.float() * scale


def per_channel(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 448
    values, dense = float8(weight, scale)
    return {"weight": values, "weight_scale": scale}, dense


def per_tensor(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    """With a fixed scale for the inputs, as ModelOpt has it."""
    scale = weight.abs().amax() / 448
    values, dense = float8(weight, scale)
    return {"weight": values, "weight_scale": scale, "input_scale": torch.tensor(0.25)}, dense


def per_block(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    """Of 128 outputs and inputs, or what is left of them."""
    rows, columns = (range(0, size, 128) for size in weight.shape)
    scale, whole = torch.ones(len(rows), len(columns)), torch.ones_like(weight)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            block = weight[row : row + 128, column : column + 128]
            scale[i, j] = block.abs().amax() / 448
            whole[row : row + 128, column : column + 128] = scale[i, j]
    values, dense = float8(weight, whole)
    return {"weight": values, "weight_scale_inv": scale}, dense


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def float4(shape: torch.Size, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of two codes at random, the lower half first, and the numbers that they stand for."""
    codes = torch.randint(0, 16, tuple(shape), generator=draw)
    return (codes[:, ::2] + 16 * codes[:, 1::2]).to(torch.uint8), E2M1[codes]


def nvfp4(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    """compressed-tensors': the scale of the whole divides."""
    held, sizes = float4(weight.shape, draw)
    scale = torch.rand(weight.shape[0], weight.shape[1] // 16, generator=draw) * 400
    scale, whole = scale.to(torch.float8_e4m3fn), torch.tensor([9000.0])
    parts = {"weight_packed": held, "weight_scale": scale, "weight_global_scale": whole}
    more = {"input_global_scale": torch.tensor([7.0])}
    return parts | more, sizes * (scale.float() / whole).repeat_interleave(16, 1)


def modelopt_nvfp4(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    """The scale of the whole multiplies."""
    parts, dense = nvfp4(weight, draw)
    named = {"weight": parts["weight_packed"], "weight_scale": parts["weight_scale"]}
    whole = 1 / parts["weight_global_scale"][0]
    return named | {"weight_scale_2": whole, "input_scale": torch.tensor(0.5)}, dense


def mxfp4(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    held, sizes = float4(weight.shape, draw)
    scale = torch.randint(118, 124, (weight.shape[0], weight.shape[1] // 32), generator=draw)
    parts = {"weight_packed": held, "weight_scale": scale.to(torch.uint8)}
    return parts, sizes * (2.0 ** (scale - 127)).repeat_interleave(32, 1)


def quark_mxfp4(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    parts, dense = mxfp4(weight, draw)
    return {"weight": parts["weight_packed"], "weight_scale": parts["weight_scale"]}, dense


def mxfp8(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    scale = torch.randint(116, 121, (weight.shape[0], weight.shape[1] // 32), generator=draw)
    values, dense = float8(weight, (2.0 ** (scale - 127)).repeat_interleave(32, 1))
    return {"weight": values, "weight_scale": scale.to(torch.uint8)}, dense


def mxfp8_inverse(weight: torch.Tensor, draw: torch.Generator) -> tuple[Parts, torch.Tensor]:
    parts, dense = mxfp8(weight, draw)
    return {"weight": parts["weight"], "weight_scale_inv": parts["weight_scale"]}, dense


CT_GROUP: dict[str, Any] = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": GROUP},
}
CT_ASYMMETRIC: dict[str, Any] = {
    "targets": ["Linear"],
    "weights": {**CT_GROUP["weights"], "symmetric": False},
}
CT_FLOAT8: dict[str, Any] = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "group_size": None},
    "input_activations": {"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"},
}
CT: dict[str, Any] = {"quant_method": "compressed-tensors", "ignore": ["lm_head"]}


def auto_round(packing: str, **more: Any) -> dict[str, Any]:
    rounded = {"bits": 4, "group_size": GROUP, "sym": False, "data_type": "int"}
    layers = {"lm_head": {"bits": 16, "data_type": "float"}, "model.layers.0.mlp.up_proj": rounded}
    named = {"quant_method": "auto-round", "packing_format": packing, "extra_config": layers}
    return named | rounded | more


def quark(dtype: str, scheme: str, **more: Any) -> dict[str, Any]:
    weight = {"dtype": dtype, "qscheme": scheme, "is_dynamic": False, **more}
    return {
        "quant_method": "quark",
        "global_quant_config": {"weight": weight, "input_tensors": {"dtype": dtype}},
        "layer_quant_config": {},
        "exclude": ["lm_head"],
        "export": {"weight_format": "real_quantized", "kv_cache_group": []},
    }


FORMATS: dict[str, tuple[Format, dict[str, Any]]] = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "gptq act-order": (
        gptq_act_order,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True},
    ),
    "gptq_v2": (
        gptq_v2,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
    ),
    "gptq of some layers": (
        gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "dynamic": {"-:.*o_proj": {}}},
    ),
    "pack-quantized": (
        pack_quantized,
        {**CT, "format": "pack-quantized", "config_groups": {"group_0": CT_GROUP}},
    ),
    "pack-quantized asymmetric": (
        pack_asymmetric,
        {**CT, "format": "pack-quantized", "config_groups": {"group_0": CT_ASYMMETRIC}},
    ),
    "fp8 dynamic": (
        per_channel,
        {**CT, "format": "float-quantized", "config_groups": {"group_0": CT_FLOAT8}},
    ),
    "fp8 blocks": (per_block, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "modelopt": (per_tensor, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "fbgemm": (per_channel, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "quark": (per_tensor, quark("fp8_e4m3", "per_tensor")),
    "auto-round gptq": (gptq, auto_round("auto_round:auto_gptq")),
    "auto-round gptq_v2": (gptq_v2, auto_round("auto_round")),
    "auto-round awq": (awq, auto_round("auto_round:auto_awq")),
}
"""What a folder's layers are saved as, and its `quantization_config`."""


def ct_floats(form: str, bits: int, size: int) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "float", "group_size": size, "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": weights}
    return {**CT, "format": form, "config_groups": {"group_0": group}}


SMALL_FLOATS: dict[str, tuple[Format, dict[str, Any]]] = {
    "nvfp4": (nvfp4, ct_floats("nvfp4-pack-quantized", 4, 16)),
    "mxfp4": (mxfp4, ct_floats("mxfp4-pack-quantized", 4, 32)),
    "modelopt nvfp4": (
        modelopt_nvfp4,
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
    ),
    "quark mxfp4": (
        quark_mxfp4,
        quark("fp4", "per_group", group_size=32, scale_format="e8m0"),
    ),
    "mxfp8": (mxfp8, ct_floats("mxfp8-quantized", 8, 32)),
    "modelopt mxfp8": (mxfp8, {"quant_method": "modelopt", "quant_algo": "MXFP8"}),
    "transformers mxfp8": (
        mxfp8_inverse,
        {"quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"},
    ),
    "fp8 with a cache's scales": (
        per_channel,
        {**FORMATS["fp8 dynamic"][1], "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
    ),
}
"""Those that are dequantised wherever they run."""


def linear_weights(state: Parts, described: dict[str, Any]) -> Iterator[str]:
    """Of the layers that such checkpoints quantise."""
    skips = [rule.removeprefix("-:") for rule in described.get("dynamic", ())]
    for name in list(state):
        if name.endswith("_proj.weight") and not any(re.match(skip, name) for skip in skips):
            yield name


def save_quantized(folder: Path, name: str, **sizes: Any) -> Any:
    """Save a tiny model in a format; the dense model that the folder stands for."""
    make, described = (FORMATS | SMALL_FLOATS)[name]
    return save_in_formats(folder, lambda _: make, described, **sizes)


def save_in_formats(
    folder: Path, format_of: Callable[[str], Format], described: dict[str, Any], **sizes: Any
) -> Any:
    """As `save_quantized`, each weight in the format for its name."""
    module = tiny_model("llama", **sizes)
    module.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    for weight in linear_weights(state, described):
        parts, dense = format_of(weight)(state.pop(weight), draw)
        front = weight.removesuffix("weight")
        state |= {front + part: tensor.contiguous() for part, tensor in parts.items()}
        module.get_parameter(weight).data.copy_(dense)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    describe(folder, described)
    return module


def describe(folder: Path, described: dict[str, Any]) -> None:
    """Write the folder's `quantization_config`."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = described
    (folder / "config.json").write_text(json.dumps(config))
