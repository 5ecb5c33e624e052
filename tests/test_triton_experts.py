"""Experts multiplied in groups are what their module computes, odd shapes too; what is not proven
stays; a model answers as `generate`."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mxfp4_folders import save_mxfp4
from parity_oracle import Oracle, assert_parity, run_engine
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config, tiny_model
from transformers import AutoConfig
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.checkpoint import packed_folder
from batchgen.engine.checkpoint.folder import load_folder
from batchgen.engine.checkpoint.packed_folder import load_random_packed
from batchgen.engine.checkpoint.random_weights import load_random
from batchgen.engine.config import EngineConfig
from batchgen.engine.mixture import replacing
from batchgen.engine.mixture.form import GELU, GELU_TANH, QUIET, SILU, Gate, Sizes, find_gate
from batchgen.engine.mixture.packed import Blocks, Stored, pack_experts, random_packed
from batchgen.engine.mixture.proof import ROUNDED_ERROR, Asked, disproof
from batchgen.engine.mixture.rounded import random_experts
from batchgen.engine.mixture.tiles import row_block
from batchgen.engine.quantization.float8 import round_rows
from batchgen.engine.quantization.scheme import Scheme
from batchgen.engine.run.loader import load_model_from
from batchgen.engine.weights import weigh
from batchgen.errors import ModelRefusedError

pytest.importorskip("triton", reason="triton is not installed: no products to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.float16, torch.bfloat16]
"""The interpreter multiplies bfloat16 as if its bits were integers."""
ERROR = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
SIZES = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
GPT_OSS = Gate(SILU, 1.702, 7.0, 1.0)
CASES = [
    (1, 5, 2, 48, 40, Gate(SILU)),
    (7, 9, 1, 33, 72, Gate(GELU)),
    (37, 3, 3, 64, 33, GPT_OSS),
    (40, 2, 1, 40, 16, Gate(GELU_TANH, limit=0.5)),
]
if not INTERPRETED:
    CASES += [(rows, 128, 8, 2048, 768, Gate(SILU)) for rows in (1, 16, 100, 256, 700, 2048)]
    CASES += [(rows, 32, 4, 2880, 2880, GPT_OSS) for rows in (3, 300)]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def plain(x: Any, chosen: Any, shares: Any, weights: Any, gate: Gate) -> torch.Tensor:
    """By the definition, in float64: row by row, expert by expert."""
    gate_up, gate_up_bias, down, down_bias = (one.double().cpu() for one in weights)
    out = torch.zeros_like(x, dtype=torch.float64, device="cpu")
    for expert in range(len(down)):
        rows, places = (chosen.cpu() == expert).nonzero(as_tuple=True)
        inner = gate.apply(x[rows].double().cpu() @ gate_up[expert].T + gate_up_bias[expert])
        found = inner @ down[expert].T + down_bias[expert]
        out.index_add_(0, rows, found * shares.double().cpu()[rows, places, None])
    return out


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "experts", "count", "hidden", "width", "gate"), CASES)
def test_a_layer_of_experts(
    rows: int, experts: int, count: int, hidden: int, width: int, gate: Gate, dtype: torch.dtype
) -> None:
    """A third of the tokens choose the same experts; one expert is chosen by none, where that can
    be; and one token leaves a choice open."""
    from batchgen.engine.mixture.products import mix_experts

    x = draw(rows, hidden)
    scores = draw(rows, experts)
    scores[: rows // 3] = scores[0]
    scores[:, experts // 2] -= 100
    shares, chosen = scores.softmax(1).topk(count)
    chosen[-1, -1] = experts
    weights = [
        draw(experts, 2 * width, hidden) * hidden**-0.5,
        draw(experts, 2 * width),
        draw(experts, hidden, width) * width**-0.5,
        draw(experts, hidden),
    ]
    x, shares, *weights = (one.to(DEVICE, dtype) for one in (x, shares, *weights))
    asked = (x, chosen.to(DEVICE), shares, *weights)
    ours = mix_experts(*asked, gate.text)
    wanted = plain(x, chosen, shares, weights, gate)
    norm = wanted.norm(dim=1).clamp_min(1e-9)
    assert float(((ours.double().cpu() - wanted).norm(dim=1) / norm).max()) < ERROR[dtype]
    again = mix_experts(*asked, gate.text)
    assert torch.equal(ours, again)


@direct
@pytest.mark.parametrize("few", [8192, 0], ids=["counted on the way", "counted before"])
@pytest.mark.parametrize(
    ("pairs", "experts", "rows"),
    [(1, 3, 16), (1100, 5, 128), (90, 33, 16), (1025, 128, 16), (7, 1, 16)],
)
def test_pairs_are_put_in_the_order_of_experts(
    pairs: int, experts: int, rows: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchgen.engine.mixture import sorting
    from batchgen.engine.mixture.sorting import sort_pairs

    monkeypatch.setattr(sorting, "_FEW", few)

    generator = torch.Generator().manual_seed(pairs)
    chosen = torch.randint(0, experts + 1, (pairs, 1), generator=generator).to(DEVICE)
    found = sort_pairs(chosen, experts, rows)
    tiles = found.tiles[: int(found.num_tiles)].tolist()
    order = found.order.tolist()
    wanted = chosen.flatten().tolist()
    for expert in range(experts):
        own = [pair for e, start, end in tiles if e == expert for pair in order[start:end]]
        assert own == [pair for pair, e in enumerate(wanted) if e == expert]
    assert all(0 < end - start <= rows for _, start, end in tiles)


def experts_of(model: Any) -> Any:
    return next(part for name, part in model.named_modules() if name.endswith("mlp.experts"))


def test_gates_are_known_by_what_they_answer() -> None:
    for name, gate in {
        "mixtral": Gate(SILU),
        "qwen3_moe": Gate(SILU),
        "gpt_oss": replace(GPT_OSS, interleaved=True),
    }.items():
        assert find_gate(experts_of(tiny_model(name, **SIZES))) == gate, name
    other = experts_of(tiny_model("mixtral", **SIZES))
    other.act_fn = torch.nn.GELU(approximate="tanh")
    assert find_gate(other) == Gate(GELU_TANH)
    other.act_fn = torch.nn.Tanh()
    assert find_gate(other) is None


def test_a_tile_holds_the_rows_of_nearly_every_expert() -> None:
    assert [row_block(8 * rows, 128, torch.bfloat16) for rows in (1, 16, 64, 256, 512, 2048)] == [
        *(16, 16, 16, 32, 64, 128)
    ]


@direct
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_a_model_with_experts_in_groups_answers_as_generate(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if INTERPRETED:
        monkeypatch.setattr(replacing, "many", lambda *_: (5,))
    prompts = [list(range(3, 12)), [5, 6]]
    oracle = Oracle(tiny_model(name, **SIZES).to(DEVICE))
    wanted = [oracle.generate(prompt, 2) for prompt in prompts]
    replaced = []
    model = load_model_from(
        tiny_model(name, **SIZES).to(DEVICE),
        ReferenceBackend(),
        optimize=lambda module: replaced.append(replacing.replace_experts(module)),
    )
    assert replaced == [1]
    assert replacing.has_experts(model.module)
    tokens = run_engine(model, prompts, 2)[0]
    assert_parity(oracle, prompts, wanted, tokens)


@direct
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_experts_in_float8_are_as_defined(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the layer's own definition, which is near the module that it was made from."""
    if INTERPRETED:
        monkeypatch.setattr(replacing, "many", lambda *_: (3,))
        from batchgen.engine.mixture import products

        monkeypatch.setattr(products, "round_rows_on_gpu", round_rows)  # it does not cut off
    model = tiny_model(name, **SIZES, hidden_size=64, intermediate_size=48).to(DEVICE)
    own = experts_of(model)
    notes = replacing.round_experts(model, lambda tensor: tensor)
    assert notes == ["1 layer of experts are in float8, too"]
    layer = experts_of(model)
    x, chosen = draw(5, 64).to(DEVICE), torch.tensor([[0, 3]] * 5, device=DEVICE)
    shares = torch.full((5, 2), 0.5, device=DEVICE)
    wanted = own(x, chosen, shares)
    assert float((layer.oracle(x, chosen, shares) - wanted).norm() / wanted.norm()) < 0.08
    right = copy.deepcopy(layer)
    layer.down_scale.data *= 1.1
    asked = Asked(4, 2, 64, torch.float32, x.device)
    broken = disproof(layer, right.oracle, asked, (3,), ROUNDED_ERROR)
    assert broken is not None
    assert "a row of 3 differs" in broken


def test_random_experts_in_float8_weigh_half_and_count_as_much() -> None:
    config = tiny_config("qwen3_moe", **SIZES)
    cpu = torch.device("cpu")
    rounded = load_random_packed(
        config, Scheme("float8"), torch.bfloat16, cpu, trust_remote_code=False
    )
    assert type(experts_of(rounded)).__name__ == "RoundedExperts"
    plain = weigh(tiny_model("qwen3_moe", **SIZES).bfloat16())
    ours = weigh(rounded)
    assert ours.active_parameters == plain.active_parameters
    assert ours.num_bytes < 0.75 * plain.num_bytes


def test_random_experts_are_quieter_than_what_goes_past_them() -> None:
    """Else one rounding sends rows to other experts, and no proof holds."""
    own, cpu = tiny_config("gpt_oss", **SIZES), torch.device("cpu")
    plain = experts_of(load_random(own, torch.bfloat16, EngineConfig(model=Path("any")), cpu))
    share = float(plain.down_proj.detach().std() / plain.gate_up_proj.detach().std())
    assert share == pytest.approx(QUIET, rel=0.2)
    sizes = Sizes(4, 64, 96, transposed=False)
    packed = random_packed(sizes, Gate(SILU), (None, None), torch.bfloat16, cpu)
    scales = (packed.down_scale, packed.gate_up_scale)
    down, gate_up = (int(one.view(torch.uint8).max()) for one in scales)
    assert 2.0 ** (down - gate_up) == QUIET
    rounded = random_experts(sizes, Gate(SILU), (None, None), torch.bfloat16, cpu)
    scales = (rounded.down_scale, rounded.gate_up_scale)
    down_scale, gate_up_scale = (float(one.float().mean()) for one in scales)
    assert down_scale / gate_up_scale == pytest.approx(QUIET, rel=0.2)


@direct
@pytest.mark.parametrize("rows", [3] if INTERPRETED else [1, 20, 100, 500])
def test_experts_in_mxfp4_are_as_defined(rows: int) -> None:
    """Every code and many scales, inputs that are no whole steps, gates and ups in turns."""
    hidden, width, experts = (64, 160, 3) if INTERPRETED else (2880, 2880, 32)
    dtype = torch.float32 if INTERPRETED else torch.bfloat16

    def stored(outputs: int, inputs: int) -> Stored:
        generator = torch.Generator().manual_seed(inputs)
        shape = (experts, outputs, inputs // 32)
        blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(116, 122, shape, generator=generator, dtype=torch.uint8)
        return Stored(blocks.to(DEVICE), scales.to(DEVICE))

    biases = draw(experts, 2 * width).to(DEVICE, dtype), draw(experts, hidden).to(DEVICE, dtype)
    gate = replace(GPT_OSS, interleaved=True)
    blocks = Blocks(stored(2 * width, hidden), stored(hidden, width), biases, gate)
    asked = Asked(experts, 2, hidden, dtype, torch.device(DEVICE))
    layer = pack_experts(blocks)
    assert disproof(layer, blocks.oracle, asked, (rows,), ERROR[dtype]) is None
    layer.gate_up.data[0] ^= 64
    layer.down.data[:, ::8] ^= 8
    assert disproof(layer, blocks.oracle, asked, (rows,), ERROR[dtype]) is not None
    blocks.down.scales[1, 2] = 129
    with pytest.raises(ValueError, match=r"a scale of 2\^2 is too large"):
        pack_experts(blocks)


@direct
@pytest.mark.skipif(not INTERPRETED, reason="in float32 a GPU dequantises")
def test_a_checkpoint_in_mxfp4_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_mxfp4(tmp_path, **SIZES)
    config = EngineConfig(model=folder, device="cpu", dtype="float32")
    asked = AutoConfig.from_pretrained(folder), torch.float32, config, torch.device("cpu")
    dense, note = load_folder(*asked)
    assert note is not None
    assert note.is_dense
    monkeypatch.setattr(packed_folder, "_can_keep", lambda *_: True)
    for name, value in (("many", lambda *_: (3,)), ("FEW", (2,))):
        monkeypatch.setattr(packed_folder, name, value)
    module, found = load_folder(*asked)
    assert found is not None
    assert (found.kept, found.dequantized, found.is_dense, found.in_package) == (1, 0, False, False)
    assert "1 layer of experts in mxfp4 stay so" in found.note
    ids = torch.arange(3, 12)[None]
    wanted, ours = (one(input_ids=ids, use_cache=False).logits.detach() for one in (dense, module))
    assert float((ours - wanted).norm() / wanted.norm()) < 1e-5
    lacking = load_file(folder / "model.safetensors")
    del lacking["model.layers.0.mlp.experts.down_proj_scales"]
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefusedError, match=r"lacks .*0.mlp.experts.down_proj_sca"):
        load_folder(*asked)


@direct
def test_what_is_not_proven_stays_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("gpt_oss", **SIZES).to(DEVICE)
    own = experts_of(model)
    right = find_gate(own)
    assert right is not None
    monkeypatch.setattr(replacing, "many", lambda *_: (3,))
    faults = [replace(right, alpha=1.6), replace(right, limit=6.0), replace(right, shift=0.9), None]
    for fault in faults:
        monkeypatch.setattr(replacing, "find_gate", lambda _, fault=fault: fault)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert replacing.replace_experts(model) == 0
        assert "1 layer of experts as transformers runs them: model.layers.0.mlp" in caplog.text
        assert ("a row of 3 differs by" if fault else "gates is not known") in caplog.text
        assert experts_of(model) is own
    monkeypatch.setattr(replacing, "find_gate", lambda _: right)
    assert replacing.replace_experts(model) == 1
