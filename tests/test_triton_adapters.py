"""Rows that choose among adapters get the same within compiled layers and graphs as by hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lora_folders import lora_folder
from tiny_models import tiny_model
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.adapters.attach import attach_adapters
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.config import Adapter, EngineConfig
from batchgen.engine.model.proof_logits import own_logits
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.loader import load_model_from

pytest.importorskip("triton", reason="triton is not installed: no products to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.float16, torch.bfloat16]
"""The interpreter multiplies bfloat16 as if its bits were integers."""
ERROR = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
CASES = [(1, 1, 40, 24, 16), (3, 1, 600, 24, 16), (37, 3, 600, 72, 16), (70, 2, 33, 300, 32)]
if not INTERPRETED:
    CASES += [(256, 4, 4096, 6144, 16), (1500, 9, 14336, 4096, 64), (8192, 2, 4096, 4096, 128)]
TYPES = {
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
}
LAYERS = {"num_hidden_layers": 2} if INTERPRETED else {}
if not INTERPRETED:
    TYPES["phi3"] = ["qkv_proj", "gate_up_proj"]
    TYPES["llama"] += ["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "adapters", "inputs", "outputs", "rank"), CASES)
def test_each_token_gets_the_product_of_its_adapter(
    tokens: int, adapters: int, inputs: int, outputs: int, rank: int, dtype: torch.dtype
) -> None:
    """Tokens without one are left as they are, to the bit."""
    from batchgen.engine.adapters.kernels import add_products, tile_rows
    from batchgen.engine.mixture.sorting import sort_pairs

    chosen = torch.randint(-1, adapters, (tokens, 1), generator=torch.Generator().manual_seed(3))
    x, y = draw(tokens, inputs).to(DEVICE, dtype), draw(tokens, outputs).to(DEVICE, dtype)
    a = (draw(adapters, rank, inputs) * inputs**-0.5).to(DEVICE, dtype)
    b = draw(adapters, outputs, rank).to(DEVICE, dtype)
    rows = tile_rows(tokens)
    found = y.clone()
    add_products(x, found, a, b, sort_pairs(chosen.to(DEVICE), adapters, rows), rows)
    for token, number in enumerate(chosen.flatten().tolist()):
        if number < 0:
            assert torch.equal(found[token], y[token])
            continue
        wanted = y[token].double() + b[number].double() @ (a[number].double() @ x[token].double())
        error = (found[token].double() - wanted).norm() / wanted.norm()
        assert float(error) < ERROR[dtype]


def adapters_of(tmp_path: Path, model_type: str) -> tuple[Adapter, ...]:
    module = tiny_model(model_type, **LAYERS)
    module.save_pretrained(tmp_path / "model")
    for seed, (name, rank) in enumerate({"a": 4, "b": 2}.items()):
        layers = TYPES[model_type][seed:]  # each leaves a layer to the other
        lora_folder(tmp_path / name, module, layers, seed, r=rank, lora_alpha=8)
    files = {name: tmp_path / name for name in ("a", "b")}
    return tuple(
        Adapter(name, folder, folder / "adapter_model.safetensors")
        for name, folder in files.items()
    )


@direct
@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_answers_as_with_merged_weights_and_can_be_left_as_it_was(
    tmp_path: Path, model_type: str
) -> None:
    """`settle` compares each adapter and pairs side by side with merged weights, or takes hooks."""
    config = EngineConfig(tmp_path / "model", adapters=adapters_of(tmp_path, model_type))
    module = tiny_model(model_type, **LAYERS).to(DEVICE)
    vocab_size: int = module.config.vocab_size
    before = own_logits(module, vocab_size)
    attached = attach_adapters(module.eval().requires_grad_(False), config)
    assert attached is not None
    model = load_model_from(module, ReferenceBackend())
    attached.settle(model, in_graphs=True)
    assert model.adapters.in_graphs
    assert model.adapters.names == ["a", "b"]
    hooked = [part for part in module.modules() if part._forward_hooks]
    assert not hooked
    model.adapters.let_go()
    for one, other in zip(own_logits(module, vocab_size), before, strict=True):
        assert torch.equal(one, other)


@direct
def test_a_product_that_is_wrong_leaves_the_hooks_to_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchgen.engine.adapters import grouped

    monkeypatch.setattr(grouped, "add_products", lambda *_: None)
    config = EngineConfig(tmp_path / "model", adapters=adapters_of(tmp_path, "llama"))
    module = tiny_model("llama", **LAYERS).to(DEVICE).eval().requires_grad_(False)
    attached = attach_adapters(module, config)
    assert attached is not None
    model = load_model_from(module, ReferenceBackend())
    attached.settle(model, in_graphs=True)
    assert not model.adapters.in_graphs
    assert any("no graphs" in note for note in model.notes)


@direct
def test_magnitudes_leave_it_to_the_hooks(tmp_path: Path) -> None:
    config = EngineConfig(tmp_path / "model", adapters=adapters_of(tmp_path, "llama"))
    module = tiny_model("llama", **LAYERS).to(DEVICE).eval().requires_grad_(False)
    lora_folder(tmp_path / "b", module, ["down_proj"], 1, r=2, lora_alpha=8, use_dora=True)
    attached = attach_adapters(module, config)
    assert attached is not None
    model = load_model_from(module, ReferenceBackend())
    attached.settle(model, in_graphs=True)
    assert not model.adapters.in_graphs
    assert any("magnitudes" in note for note in model.notes)


@direct
def test_padded_tokens_and_rows_have_no_adapter(tmp_path: Path) -> None:
    from batchgen.engine.adapters.grouped import GroupedAdapters

    config = EngineConfig(tmp_path / "model", adapters=adapters_of(tmp_path, "llama"))
    module = tiny_model("llama", **LAYERS).to(DEVICE).eval().requires_grad_(False)
    attached = attach_adapters(module, config)
    assert attached is not None
    adapters = GroupedAdapters(module, attached.adapters.loras)
    numbers = torch.tensor([1, -1, 0, -1, -1], dtype=torch.int32, device=DEVICE)
    ends = torch.tensor([2, 5, 6, 6, 6], dtype=torch.int32, device=DEVICE)
    adapters.route(numbers, ends, 9)
    x, y = torch.ones(9, 8, device=DEVICE), torch.zeros(9, 8, device=DEVICE)
    a, b = torch.ones(2, 16, 8, device=DEVICE), torch.ones(2, 8, 16, device=DEVICE)
    adapters.add(x, y, a, b)
    assert (y[:, 0] > 0).tolist() == [True, True, False, False, False, True, False, False, False]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model_type", TYPES)
def test_graphs_choose_the_tokens_that_an_eager_run_chooses(
    tmp_path: Path, model_type: str
) -> None:
    from batchgen.engine.run.factory import load_served

    adapters = adapters_of(tmp_path, model_type)
    found: list[Any] = []
    for eager in (True, False):
        settings = EngineConfig(
            tmp_path / "model",
            device="cuda",
            dtype="float32",
            adapters=adapters,
            enforce_eager=eager,
            max_num_batched_tokens=64,
            max_num_seqs=6,
        )
        model, engine = load_served(settings)
        assert model.adapters.in_graphs is not eager
        for row in range(40):
            params = SamplingParams(max_tokens=12, ignore_eos=True, adapter=["", "a", "b"][row % 3])
            prompt = [1 + (row * 31 + place) % 90 for place in range(3 + row % 14)]
            engine.add(Request(row, prompt, params))
        tokens = {}
        while engine.num_unfinished:
            tokens |= {done.request_id: list(done.token_ids) for done in engine.step()}
        engine.close()
        found.append(tokens)
    assert found[0] == found[1]
