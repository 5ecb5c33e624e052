"""Promise: a model made fast for the CPU answers as it did, whatever its architecture."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import ONCE, THOROUGH, tiny_model
from torch import nn

from batchgen.engine.cpu.optimize import optimize_for_cpu
from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.ops import Operators
from batchgen.engine.packed.quantizing import Q4_1, Q8_0, dense_blocks, round_to_blocks
from batchgen.engine.run.loader import load_model_from

KERNELS = [
    pytest.param(True, marks=pytest.mark.skipif(load_kernels() is None, reason="no C compiler")),
    False,
]


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return answer.float()


def bound_forwards(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


@pytest.mark.parametrize("use_kernels", KERNELS)
@pytest.mark.parametrize("model_type", [*THOROUGH, *ONCE])
def test_logits_stay(model_type: str, use_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not use_kernels:
        monkeypatch.setattr(Operators, "load", staticmethod(lambda: None))
    model = tiny_model(model_type)
    ids = torch.randint(3, 90, (1, 30), generator=torch.Generator().manual_seed(1))
    before = logits(model, ids)
    optimize_for_cpu(model, torch.float32)
    after = logits(model, ids)
    assert bound_forwards(model)
    assert (after - before).abs().max() <= 2e-5 * before.abs().max()
    assert torch.equal(logits(model, ids), after)


@pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # of torch, at making it
@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("glm4_moe", {"n_shared_experts": 0}),  # valid: no expert is shared
        ("glm4_moe_lite", {"num_key_value_heads": 4, "q_lora_rank": 0}),  # a norm of nothing
    ],
)
def test_layers_of_no_outputs_stay_as_they_are(model_type: str, changes: dict[str, int]) -> None:
    model = tiny_model(model_type, **changes)
    ids = torch.arange(3, 33)[None]
    before = logits(model, ids)
    optimize_for_cpu(model, torch.float32)
    torch.testing.assert_close(logits(model, ids), before)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gpt2", {"n_positions": 24, "max_position_embeddings": 24}),
        (
            "starcoder2",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 500.0,
                    "short_factor": [1.5] * 4,
                    "long_factor": [4.0] * 4,
                    "original_max_position_embeddings": 24,
                }
            },
        ),
    ],
)
def test_a_model_that_is_exact_for_few_tokens_is_made_fast_within_them(
    model_type: str, changes: dict[str, Any]
) -> None:
    optimize = partial(optimize_for_cpu, dtype=torch.float32)
    model = load_model_from(tiny_model(model_type, **changes), optimize=optimize)
    assert model.max_position == 24
    assert bound_forwards(model.module)


def test_a_llama_is_bound_whole_and_gives_up_its_weights() -> None:
    model = tiny_model("llama")
    optimize_for_cpu(model, torch.float32)
    bound = set(bound_forwards(model))
    for part in ("self_attn", "self_attn.q_proj", "self_attn.o_proj", "mlp", "input_layernorm"):
        assert f"model.layers.0.{part}" in bound
    assert {"lm_head", "model.norm"} <= bound
    head = model.get_output_embeddings().weight
    assert head.shape == model.get_input_embeddings().weight.shape
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert all(linear.weight.untyped_storage().nbytes() <= 8 for linear in linears)


def test_bfloat16_stays_near() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    ids = torch.arange(3, 33)[None]
    before = logits(model, ids)
    optimize_for_cpu(model, torch.bfloat16)
    assert (logits(model, ids) - before).norm() <= 0.03 * before.norm()


def round_all(model: nn.Module) -> None:
    ends = {id(model.get_output_embeddings()), id(model.get_input_embeddings())}  # type: ignore[operator]
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            kind = Q8_0 if id(part) in ends else Q4_1
            part.weight.data = dense_blocks(round_to_blocks(part.weight, kind), kind)


@pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", ["int8", "q4"])
def test_rounded_weights_stay_near_and_hold_the_embedding_and_the_head_too(
    scheme: str, tied: bool
) -> None:
    model = tiny_model("llama", intermediate_size=64)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight = embedding.weight if tied else nn.Parameter(head.weight.detach().clone())
    ids = torch.arange(3, 33)[None]
    oracle = copy.deepcopy(model)
    if scheme == "q4":  # what 4 bits lose is their own matter: the arithmetic is what is compared
        round_all(oracle)
    before = logits(oracle, ids)
    optimize_for_cpu(model, torch.float32, scheme)
    after = logits(model, ids)
    assert 0 < (after - before).norm() <= 0.1 * before.norm()
    operators = Operators.load()
    if scheme == "q4" or (operators is not None and operators.can_pack_int8(1)):
        assert head.weight.isnan().all()
        assert embedding.weight.isnan().all()
        packed, rows = head.forward, embedding.forward.packed
        shared = packed.weights[0] is rows if scheme == "q4" else packed.weight is rows.weight
        assert shared == tied


def test_other_dtypes_are_left_as_they_are() -> None:
    model = tiny_model("llama").to(torch.float16)
    optimize_for_cpu(model, torch.float16)
    assert not bound_forwards(model)


def test_two_models_do_not_share_what_is_bound() -> None:
    first, second = tiny_model("llama"), tiny_model("llama")
    ids = torch.arange(3, 33)[None]
    before = logits(second, ids)
    optimize_for_cpu(first, torch.float32)
    assert not bound_forwards(second)
    assert torch.equal(logits(second, ids), before)
