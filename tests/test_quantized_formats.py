"""AWQ, GPTQ, compressed-tensors, FP8 and ModelOpt checkpoints mean what their formats say: read on
a CPU they are the dequantised model, packed for a GPU they stand for the same weights, and what is
missing or of another scheme is named before weights are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_oracle import Oracle, greedy_tokens
from quantized_folders import CT, FORMATS, GROUP, auto_round, describe, quark, save_quantized
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from torch import nn

from batchgen.engine.config import EngineConfig
from batchgen.engine.cpu.joined_linear import JoinedQuantized, join_linears
from batchgen.engine.quantization.float8 import Float8, round_blocks, round_rows, round_weight
from batchgen.engine.quantization.float8_linear import Float8Linear, fits_float8
from batchgen.engine.quantization.integer_linear import IntegerLinear
from batchgen.engine.quantization.integers import Integers, read_integers, round_to_integers
from batchgen.engine.quantization.linear import QuantizedLinear
from batchgen.engine.quantization.proof import settle_layers
from batchgen.engine.quantization.scheme import read_scheme
from batchgen.engine.run.factory import load_engine
from batchgen.engine.run.loader import load_model
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.job.ledger.fingerprint import fingerprint_of
from batchgen.job.spec import InputSpec, JobSpec

PROMPTS = [[5, 6, 7], list(range(10, 40))]
INTEGERS = [name for name in FORMATS if "awq" in name or "gptq" in name or "pack" in name]


def rotated(*places: str) -> dict[str, Any]:
    """What compressed-tensors writes of a model rotated there."""
    apply = [{"targets": ["Linear"], "location": place} for place in places]
    return {"transform_config": {"config_groups": {"u": {"type": "hadamard", "apply": apply}}}}


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_folder_gives_the_tokens_of_the_dense_model(name: str, tmp_path: Path) -> None:
    dense = save_quantized(tmp_path, name, num_hidden_layers=2)
    engine = load_engine(EngineConfig(model=tmp_path, device="cpu", num_blocks=64))
    oracle = Oracle(dense)
    assert greedy_tokens(engine, PROMPTS, 6) == [oracle.generate(prompt, 6) for prompt in PROMPTS]


@pytest.mark.parametrize("name", INTEGERS)
def test_packed_for_a_gpu_a_weight_is_what_the_format_says(name: str) -> None:
    make, described = FORMATS[name]
    scheme = read_scheme(described)
    assert scheme is not None
    parts, dense = make(torch.empty(48, 128), torch.Generator().manual_seed(1))
    weight = read_integers(parts, scheme)
    torch.testing.assert_close(weight.dense(torch.float32), dense.float())
    layer = IntegerLinear(weight, None, torch.float16)
    assert layer.packed.nbytes == 48 * 128 // 2
    assert (layer.order is not None) == ("act-order" in name)
    rounded = {"rtol": 2**-11, "atol": 0}  # scales are in float16 there
    torch.testing.assert_close(layer.dense(torch.float32), dense.float(), **rounded)


def test_a_scheme_is_known_by_each_name_that_tools_write_it_under() -> None:
    for name in ("checkpoint_format", "format"):
        gptq = read_scheme({"quant_method": "gptq", name: "gptq_v2"})
        assert gptq is not None
        assert gptq.packing == "gptq_v2"
    described = FORMATS["fp8 dynamic"][1]
    (group,) = described["config_groups"].values()
    blocks = {**group, "weights": {**group["weights"], "block_structure": "64x128"}}
    read = read_scheme({**described, "config_groups": {"group_0": blocks}})
    assert read is not None
    assert read.block == (64, 128)
    baked = read_scheme({**described, **rotated("weight_input", "weight_output")})
    assert baked == read_scheme(described)


def test_a_modelopt_folder_is_known_by_its_own_file(tmp_path: Path) -> None:
    save_quantized(tmp_path, "modelopt", num_hidden_layers=1)
    describe(tmp_path, {})
    told = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(told))
    model = load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert "full size" in model.notes[0]
    assert "left out are its scales for a KV cache" in model.notes[0]


LAYER = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("awq", lambda state: state.pop(f"{LAYER}.scales"), f"{LAYER}.scales is missing"),
        ("gptq", lambda state: state.pop(f"{LAYER}.qzeros"), f"{LAYER}.qzeros is missing"),
        (
            "fp8 dynamic",
            lambda state: state.pop(f"{LAYER}.weight_scale"),
            rf"{LAYER}.weight is in float8, and its scale {LAYER}.weight_scale is missing",
        ),
        (
            "pack-quantized",
            lambda state: state.update({f"{LAYER}.weight_scale": torch.ones(32, 3)}),
            rf"{LAYER}.weight_scale has the shape \[32, 3\], not \[32, 2\]",
        ),
        (
            "awq",
            lambda state: state.update({f"{LAYER}.qweight": torch.zeros(32, 4)}),
            rf"{LAYER}.qweight is of type F32, not of packed 32-bit words",
        ),
        (
            "modelopt",
            lambda state: state.update({f"{LAYER}.weight_scale": torch.ones(2, 2)}),
            rf"{LAYER}.weight_scale has the shape \[2, 2\], not one for each output",
        ),
        (
            "pack-quantized",
            lambda state: state.update({f"{LAYER}.weight_shape": torch.tensor([32])}),
            rf"{LAYER}.weight_shape has the shape \[1\], not \[2\]",
        ),
        (
            "gptq",
            lambda state: state.update({f"{LAYER}.scales": torch.ones(2, 32, dtype=torch.int32)}),
            rf"{LAYER}.scales is of type I32, which no scale has",
        ),
        (
            "fp8 dynamic",
            lambda state: state.update({f"{LAYER}.weight_scale": torch.ones(1, dtype=torch.uint8)}),
            rf"{LAYER}.weight_scale is of type U8, which no scale has",
        ),
        (
            "gptq",
            lambda state: state.update({f"{LAYER}.channel_scale": torch.ones(32)}),
            rf"{LAYER}.channel_scale lies beside quantised weights",
        ),
        (
            "awq",
            lambda state: state.update({f"{LAYER}.weight": torch.ones(32, 32)}),
            rf"{LAYER}.weight lies beside quantised weights",
        ),
        (
            "pack-quantized asymmetric",
            lambda state: state.pop(f"{LAYER}.weight_zero_point"),
            rf"{LAYER}.weight_zero_point is missing",
        ),
    ],
)
def test_scales_that_are_missing_or_do_not_fit_are_named_before_weights_are_read(
    name: str, change: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_quantized(tmp_path, name, num_hidden_layers=1)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    with pytest.raises(ModelRefusedError, match=message) as caught:
        load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert caught.value.exit_code == 2
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"},
            "with the quant_algo 'NVFP4_AWQ'",
        ),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "with experts in 'fp4'"),
        ({"quant_method": "awq", "version": "gemv"}, "packed for 'gemv'"),
        ({"quant_method": "gptq", "bits": 3}, "of 3 bits"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "packed for 'marlin'"),
        ({"quant_method": "gptq", "dynamic": {"+:x": {"bits": 8}}}, "whose layers differ"),
        ({"quant_method": "gptq", "format": "bitblas"}, "packed for 'bitblas'"),
        ({"quant_method": "awq", "format": "gemv_fast"}, "packed for 'gemv_fast'"),
        ({**CT, **rotated("weight_input", "input")}, "whose layers transform their inputs"),
        ({**CT, **rotated("k_cache")}, "whose layers transform their inputs"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "of the format 'e5m2'"),
        ({"quant_method": "gptq", "group_size": 0}, "in groups of 0"),
        ({"quant_method": "awq", "group_size": "all"}, "in groups of 'all'"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"in blocks of \[128\]"),
        (auto_round("auto_round:llm_compressor"), "packed for 'auto_round:llm_compressor'"),
        (auto_round("auto_round", data_type="mx_fp"), "of other numbers than integers"),
        (auto_round("auto_round", act_bits=8), "with rounded inputs"),
        (auto_round("auto_round", extra_config={"x": {"bits": 8}}), "whose layers differ"),
        (auto_round("auto_round", bits=3, extra_config=None), "of 3 bits"),
        (quark("int4", "per_group"), "of dtype 'int4', qscheme 'per_group'"),
        (
            {**quark("fp8_e4m3", "per_tensor"), "algo_config": [{"name": "quarot", "r4": True}]},
            "whose layers rotate their inputs",
        ),
        (
            auto_round("auto_round", rotation_config={"r1": True, "online_r1_rotation": True}),
            "whose layers rotate their inputs",
        ),
        (auto_round("auto_round", extra_config={"x": None}), "in a form that cannot be read"),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "int4"}, {}]}},
            "in a form that cannot be read",
        ),
        (
            {**quark("fp8_e4m3", "per_tensor"), "export": {"weight_format": "fake"}},
            "of the weight_f",
        ),
        ({"quant_method": "gptq", "bits": 4}, "says 4-bit integer weights, and its files hold non"),
    ],
)
def test_an_unknown_scheme_is_named(
    described: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny_model("llama", num_hidden_layers=1).save_pretrained(tmp_path)
    describe(tmp_path, described)
    with pytest.raises(ModelRefusedError, match=message) as caught:
        load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert caught.value.exit_code == 2


def test_fp8_where_it_cannot_be_served_is_a_usage_error(tmp_path: Path) -> None:
    config = EngineConfig(model=tmp_path, device="cpu", quantization="fp8")
    with pytest.raises(UsageError, match="--quantization fp8 is for CUDA"):
        load_model(config)
    for device, quantization in (("cpu", "fp8"), ("cuda:0", "int8")):
        with pytest.raises(UsageError, match=f"--quantization {quantization} is for"):
            JobSpec(InputSpec(("a",)), Path("o"), device=device, quantization=quantization)
    spec = JobSpec(InputSpec(("a",)), Path("o"), quantization="fp8")
    assert fingerprint_of(spec, None)["quantization"] == "fp8"
    save_quantized(tmp_path, "gptq", num_hidden_layers=1)
    with pytest.raises(UsageError, match="already, and --quantization int8"):
        load_model(replace(config, quantization="int8"))


def test_rounding_is_to_the_nearest_that_the_format_has() -> None:
    weight = torch.randn(48, 96)
    for group in (16, 32, 96):
        rounded = round_to_integers(weight, group)
        step = rounded.scales.T.repeat_interleave(group, 1)
        assert bool(((rounded.dense(torch.float32) - weight).abs() <= step * 1.001).all())
    of_outputs = round_weight(weight)
    error = (of_outputs.dense(torch.float32) - weight).abs()
    least = weight.abs().amax(1, keepdim=True) / 448 / 2**10
    assert bool((error <= weight.abs() / 16 + least).all())  # half of the last bit of mantissa
    torch.testing.assert_close(of_outputs.dense(torch.float32).abs().amax(), weight.abs().amax())
    blocks = round_blocks(weight, (32, 64))
    assert blocks.scale.shape == (2, 2)
    torch.testing.assert_close(blocks.dense(torch.float32), weight, rtol=1 / 16, atol=1e-3)
    rows, scale = round_rows(torch.tensor([[1.0, float("nan")], [0.0, 0.0], [3e4, -1.0]]))
    assert rows[0].float().isnan().any()
    assert rows[1].float().tolist() == [0, 0]
    torch.testing.assert_close(
        (rows[2].float() * scale[2]), torch.tensor([3e4, -1.0]), rtol=0.1, atol=10
    )
    fixed, _ = round_rows(torch.tensor([[1e6, -1e6]]), torch.tensor(1.0))
    assert fixed.float().tolist() == [[448, -448]]


def test_sizes_that_torch_does_not_multiply_are_not_kept() -> None:
    assert fits_float8((48, 96), None)
    assert not fits_float8((40, 96), None)
    assert fits_float8((200 * 8, 256), (128, 128))
    assert not fits_float8((128, 192), (128, 128))
    assert not fits_float8((128, 128), (64, 64))
    assert not fits_float8((4, 128, 128), None)


class Answering(nn.Module):
    """Two layers of one input, then one alone."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 128)
        self.q, self.k, self.o = make(48), make(16), make(64)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.q(x), self.k(x), self.o(x + 1)


def float8_layer(outputs: int) -> Float8Linear:
    weight = round_weight(torch.randn(outputs, 128))
    return Float8Linear(weight, torch.randn(outputs), torch.float32)


def block_layer(outputs: int) -> Float8Linear:
    weight = round_blocks(torch.randn(outputs, 128), (16, 32))
    return Float8Linear(weight, None, torch.float32)


def integer_layer(outputs: int) -> IntegerLinear:
    groups = (torch.arange(128) // GROUP)[
        torch.randperm(128, generator=torch.Generator().manual_seed(3))
    ]
    plain = round_to_integers(torch.randn(outputs, 128), GROUP)
    weight = Integers(plain.codes, plain.scales, plain.zeros, groups)
    return IntegerLinear(weight, torch.randn(outputs), torch.float32)


@pytest.fixture
def by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by the definition: without a GPU the layers' own way is not there."""
    for kind in (Float8Linear, IntegerLinear):
        monkeypatch.setattr(kind, "multiply", kind.oracle)


@pytest.mark.usefixtures("by_definition")
@pytest.mark.parametrize("make", [float8_layer, block_layer, integer_layer])
def test_layers_of_one_input_become_one_product(make: Any) -> None:
    module, x = Answering(make), torch.randn(2, 3, 128)
    if make is block_layer:  # of other blocks than the kernel's: not aligned
        assert not module.q.alike(module.k)
        return
    before = module(x)
    assert join_linears(module, lambda: module(x)) == 1
    assert isinstance(module.q, JoinedQuantized)
    assert isinstance(module.o, QuantizedLinear)
    for ours, wanted in zip(module(x), before, strict=True):
        torch.testing.assert_close(ours, wanted)
    alone = module.k(x + 2)  # another input than its sibling's: its own part, a view
    torch.testing.assert_close(alone, module.k.alone(x + 2))
    joined = module.q.joined
    assert joined is not None
    dense = torch.cat([module.q.alone.dense(torch.float32), module.k.alone.dense(torch.float32)])
    assert torch.equal(joined.dense(torch.float32), dense)
    memory = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for one in (*joined.parameters(), *module.q.alone.parameters())
        if one is not module.q.alone.bias
    }
    assert sum(memory.values()) == sum(one.nbytes for one in joined.parameters())


@pytest.mark.usefixtures("by_definition")
def test_a_layer_whose_product_is_wrong_is_dequantised_with_a_word() -> None:
    module, x = Answering(integer_layer), torch.randn(3, 128)
    before = module(x)
    module.k.multiply = lambda rows: module.q.oracle(rows)[:, :16]  # another layer's answers
    notes = settle_layers(module)
    assert len(notes) == 1
    assert "1 layer dequantised, no product is right: k: " in notes[0]
    assert type(module.k) is nn.Linear
    for ours, wanted in zip(module(x), before, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_a_way_that_fails_gives_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(layer: Any, x: torch.Tensor) -> torch.Tensor:
        if layer.product == "scaled_mm":
            raise RuntimeError("not on this device\nand more")
        return layer.oracle(x)

    monkeypatch.setattr(Float8Linear, "multiply", multiply)
    module = Answering(float8_layer)
    notes = settle_layers(module)
    assert notes == ["products are not scaled_mm's: k: RuntimeError: not on this device"]
    assert {module.q.product, module.k.product, module.o.product} == {"triton"}


def test_experts_of_a_stack_are_dequantised() -> None:
    values = torch.randn(3, 32, 48).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2, 3) + 0.5
    dense = Float8(values, scale, (16, 16)).dense(torch.float32)
    assert dense[1, 20, 40] == values[1, 20, 40].float() * scale[1, 1, 2]
