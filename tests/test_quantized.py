"""Quantised checkpoints work as transformers has them, or are refused by name before any row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import tokens_in_order
from mxfp4_folders import MXFP4, save, save_mxfp4
from parity_oracle import Oracle
from safetensors.torch import load_file
from tiny_models import tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from batchgen.engine.checkpoint import quantized
from batchgen.engine.checkpoint.quantized import read_quantized
from batchgen.engine.config import EngineConfig
from batchgen.engine.cpu.joined_linear import JoinedDense, join_linears
from batchgen.engine.cpu.linear_calls import is_plain
from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.model.discovery import clone_module
from batchgen.engine.model.proof import check_copies
from batchgen.engine.model.proof_logits import own_logits
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import load_engine
from batchgen.engine.run.loader import load_model, load_model_from
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.job.spec import InputSpec, JobSpec

BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
AO_DYNAMIC = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8DynamicActivationInt8WeightConfig", "_data": {}}},
}
AO = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}}
W4A16 = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {}}}}
W8A8 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {}, "input_activations": {"num_bits": 8}}},
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}


def save_fp8(folder: Path, *, described: bool = True) -> Path:
    """Blocks of 16 x 16 weights with a scale each, as DeepSeek ships them."""
    module = tiny_model("llama")
    module.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        rows, columns = weights[name].shape
        blocks = weights[name].view(rows // 16, 16, columns // 16, 16)
        scale = blocks.abs().amax((1, 3), keepdim=True) / 448
        weights[name] = (blocks / scale).view(rows, columns).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scale.view(rows // 16, columns // 16)
    return save(folder, FP8 if described else None, weights, module)


def served_and_generated(folder: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of batchgen, and those of transformers with the same folder."""
    prompts = [[5, 6, 7], list(range(10, 40)), [3] * 9]
    engine = load_engine(EngineConfig(model=folder, device="cpu", dtype="float32", num_blocks=64))
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    served = tokens_in_order(engine, [Request(i, p, params) for i, p in enumerate(prompts)])
    load: Any = AutoModelForCausalLM.from_pretrained
    oracle = Oracle(load(folder, dtype=torch.float32, attn_implementation="eager").eval())
    return served, [oracle.generate(prompt, 8) for prompt in prompts]


@pytest.mark.parametrize("make", [save_fp8, save_mxfp4])
def test_weights_that_can_be_dequantised_serve_like_any_other(make: Any, tmp_path: Path) -> None:
    served, generated = served_and_generated(make(tmp_path))
    assert served == generated
    model = load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert "full size" in model.notes[0]


def test_packed_numbers_are_never_taken_for_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match=r"does not describe.*weight_scale_inv") as caught:
        load_model(EngineConfig(model=save_fp8(tmp_path, described=False), device="cpu"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"quant_method": "aqlm"}, "aqlm weights, which batchgen does not serve"),
        ({"quant_method": "hqq"}, "name the weights that are not.*with the package hqq"),
        ({"quant_method": "bitnet"}, "bitnet weights, which batchgen does not serve"),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8}}, "KV cache scheme"),
        ({"bits": 4}, "without a quant_method"),
        (W8A8, "and compressed-tensors is not installed"),
        (AO, "and torchao is not installed"),
        ({"load_in_4bit": True}, "bitsandbytes weights, and bitsandbytes is not installed"),
    ],
)
def test_what_is_not_served_or_not_installed_is_named(
    found: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_is_installed", lambda name: name == "accelerate")
    config = tiny_model("llama").config
    config.quantization_config = found
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelRefusedError, match=f"(?s){message}") as caught:
        load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("found", "dense", "rounds"),
    [
        (BNB8, False, True),
        (NF4, False, False),
        (AO_DYNAMIC, False, True),
        (AO, False, False),
        (W4A16, True, False),
        (W8A8, False, True),
        (FP8, True, False),
        (MXFP4, True, False),
    ],
)
def test_layers_that_round_their_inputs_are_known(
    found: dict[str, Any], dense: bool, rounds: bool
) -> None:
    read = read_quantized({"text_config": {"quantization_config": found}})
    assert read is not None
    assert (read.is_dense, read.rounds_activations) == (dense, rounds)
    assert read.note
    assert read_quantized({"quantization_config": None}) is None


def test_flags_that_contradict_the_weights_are_usage_errors(tmp_path: Path) -> None:
    config = EngineConfig(model=save_fp8(tmp_path), device="cpu")
    with pytest.raises(UsageError, match="already, and --quantization int8"):
        load_model(replace(config, quantization="int8"))
    with pytest.raises(UsageError, match="is for the CPU, in float32 or bfloat16"):
        load_model(replace(config, quantization="int8", dtype="float16"))
    load_model(replace(config, deterministic=True, dtype="float32"))
    read = read_quantized({"quantization_config": NF4})
    assert read is not None
    with pytest.raises(UsageError, match="--deterministic cannot hold"):
        read.check("m", quantization=None, deterministic=True)
    with pytest.raises(UsageError, match="--deterministic cannot hold"):
        JobSpec(InputSpec(("a",)), Path("o"), deterministic=True, quantization="int8")


class Packed(torch.Tensor):
    """Stands for a tensor class that keeps packed weights under an ordinary layer."""


def test_layers_that_are_more_than_they_seem_are_left_alone() -> None:
    module = tiny_model("llama")
    ids = torch.arange(3, 33)[None]
    expected = module(input_ids=ids, use_cache=False).logits
    layers = module.model.layers
    packed, hooked, wrapped = (layers[i].self_attn.k_proj for i in range(3))
    packed.weight = nn.Parameter(packed.weight.as_subclass(Packed), requires_grad=False)
    hooked.register_forward_hook(lambda layer, args, out: out)
    wrapped.forward = wrapped.forward
    assert not any(map(is_plain, (packed, hooked, wrapped)))
    assert is_plain(layers[0].self_attn.q_proj)
    for change in (
        lambda model: join_linears(model, lambda: model(input_ids=ids, use_cache=False)),
        lambda model: optimize_for_cpu(model, torch.float32),
    ):
        copy = clone_module(module)
        assert change(copy)
        keys = [layer.self_attn.k_proj for layer in copy.model.layers]
        assert type(keys[0].weight) is Packed
        assert not any(isinstance(key, JoinedDense) for key in keys)
        got = copy(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(torch.Tensor(got), expected, rtol=1e-3, atol=1e-4)


def test_layers_of_a_package_that_do_not_run_are_refused_by_name() -> None:
    module = tiny_model("llama", num_hidden_layers=1)
    module.hf_quantizer = object()
    module.model.layers[0].mlp.up_proj.to(torch.bfloat16)  # a layer that keeps its own dtype
    with pytest.raises(ModelRefusedError, match=r"'llama'.*its forward failed.*dtype") as caught:
        load_model_from(module)
    assert caught.value.exit_code == 2


class Moving(nn.Linear):
    """As bitsandbytes' 8-bit layer: the first call moves a part of the weight into `state`."""

    class State:
        """Empty until the first call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.state
        if not hasattr(state, "scale"):
            state.scale, self.weight.scale = getattr(self.weight, "scale", None), None
        return super().forward(x) * (1.0 if state.scale is None else state.scale)


def test_layers_that_keep_weights_outside_their_parameters_survive_copies() -> None:
    def moving() -> Any:
        module = tiny_model("llama")
        layer = module.model.layers[0].self_attn.o_proj
        layer.__class__, layer.state = Moving, Moving.State()
        layer.weight.scale = torch.full((), 5.0)
        return module

    module = moving()
    own = own_logits(module, 97, copied=False)
    check_copies(module, own_logits(module, 97), own)
    check_copies(module, own_logits(module, 97), own)
    unsettled = moving()
    own_logits(unsettled, 97)
    with pytest.raises(ModelRefusedError, match="after the first call"):
        check_copies(unsettled, own_logits(unsettled, 97), own)
