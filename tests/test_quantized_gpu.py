"""On a GPU quantised weights stay so, through the loader, the proof, compiled layers and graphs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import FORMATS, save_quantized
from tiny_models import tiny_model

from batchgen.engine.config import EngineConfig
from batchgen.engine.model.proof_logits import own_logits
from batchgen.engine.quantization.linear import QuantizedLinear
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import load_engine, load_served
from batchgen.engine.run.loader import load_model

pytestmark = pytest.mark.cuda

SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 512}
PROMPTS = [[5, 6, 7], list(range(10, 200)), [3] * 40, [9]]


def served(config: EngineConfig) -> list[list[int]]:
    engine = load_engine(config)
    for _ in range(2):  # the second time from graphs
        tokens: dict[int, list[int]] = {}
        for index, prompt in enumerate(PROMPTS):
            engine.add(Request(index, prompt, SamplingParams(max_tokens=40, ignore_eos=True)))
        while engine.num_unfinished:
            for done in engine.step():
                assert done.error_code is None, done.error_message
                tokens[done.request_id] = list(done.token_ids)
    engine.close()
    return [tokens[index] for index in range(len(PROMPTS))]


def quantized_layers(module: Any) -> Iterator[QuantizedLinear]:
    return (part for part in module.modules() if isinstance(part, QuantizedLinear))


def apart(module: Any, dense: Any) -> float:
    """How far the two's logits are from each other, in the mean."""
    vocab = module.get_output_embeddings().weight.shape[0]
    pairs = zip(own_logits(module, vocab), own_logits(dense, vocab), strict=True)
    errors = [(a.float() - b.float()).norm(dim=-1) / b.float().norm(dim=-1) for a, b in pairs]
    return float(torch.cat(errors).mean())


def worst_layer(module: Any) -> float:
    """The largest distance of a layer's product, asked as the model asks it, from its definition's,
    which rounds weights and inputs as the format says."""
    found = []

    def compare(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        x = inputs[0].reshape(-1, layer.in_features)
        ours, wanted = output.reshape(-1, layer.out_features).float(), layer.oracle(x)
        found.append(float((ours - wanted).norm() / wanted.norm()))

    hooks = [layer.register_forward_hook(compare) for layer in quantized_layers(module)]
    own_logits(module, module.get_output_embeddings().weight.shape[0], copied=False)
    for hook in hooks:
        hook.remove()
    assert len(found) >= len(hooks)
    return max(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_quantised_folder_stays_quantised(name: str, dtype: str, tmp_path: Path) -> None:
    dense = save_quantized(tmp_path, name, **SIZES).to("cuda", getattr(torch, dtype))
    config = EngineConfig(model=tmp_path, device="cuda", dtype=dtype, enforce_eager=True)
    model = load_model(config)
    count = 18 if name == "gptq of some layers" else 21
    assert len(list(quantized_layers(model.module))) == count
    assert any(f"{count} layers of" in note for note in model.notes), model.notes
    assert not any("dequantised" in note for note in model.notes), model.notes
    inputs_are_rounded = name in ("fp8 dynamic", "fp8 blocks", "modelopt", "fbgemm", "quark")
    # These wide random layers make much of a rounded input; a wrong scale makes it 1 and more.
    assert apart(model.module, dense) < (0.5 if inputs_are_rounded else 0.05)
    assert worst_layer(model.module) < 6e-3
    if dtype == "bfloat16":
        assert served(EngineConfig(model=tmp_path, device="cuda", num_blocks=64, dtype=dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dense_model_is_rounded_to_float8(dtype: str, tmp_path: Path) -> None:
    dense = tiny_model("llama", **SIZES)
    dense.save_pretrained(tmp_path)
    dense = dense.to("cuda", getattr(torch, dtype))
    asked: dict[str, Any] = {"device": "cuda", "dtype": dtype, "quantization": "fp8"}
    model = load_model(EngineConfig(model=tmp_path, enforce_eager=True, **asked))
    layers = list(quantized_layers(model.module))
    assert len(layers) == 21
    print("product:", {layer.product for layer in layers}, model.notes)
    assert apart(model.module, dense) < 0.5
    assert worst_layer(model.module) < 6e-3
    plain = load_model(EngineConfig(model=tmp_path, device="cuda", dtype=dtype, enforce_eager=True))
    assert model.weights is not None
    assert plain.weights is not None
    assert model.weights.layer_parameters == plain.weights.layer_parameters
    assert model.weights.num_bytes < 0.75 * plain.weights.num_bytes


def test_rounded_layers_are_compiled_once_and_captured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.utils import counters

    tiny_model("llama", **SIZES).save_pretrained(tmp_path)
    counters.clear()
    with caplog.at_level(logging.WARNING):
        tokens = served(
            EngineConfig(
                model=tmp_path, device="cuda", dtype="bfloat16", quantization="fp8", num_blocks=64
            )
        )
    assert [len(row) for row in tokens] == [40] * len(PROMPTS)
    assert not [r for r in caplog.records if "without CUDA graphs" in r.message]
    assert not [r for r in caplog.records if "layers run as they are" in r.message]
    assert counters["stats"]["unique_graphs"] <= 2, dict(counters["stats"])


def test_a_prompt_alone_has_the_tokens_that_it_has_among_others(tmp_path: Path) -> None:
    """Rows are rounded one by one; what is left is the order of sums."""
    tiny_model("llama", **SIZES).save_pretrained(tmp_path)
    config = EngineConfig(
        model=tmp_path, device="cuda", dtype="bfloat16", quantization="fp8", num_blocks=64
    )
    together = served(config)
    _, engine = load_served(config)
    equal = 0
    for index, prompt in enumerate(PROMPTS):
        engine.add(Request(index, prompt, SamplingParams(max_tokens=40, ignore_eos=True)))
        while engine.num_unfinished:
            for done in engine.step():
                equal += sum(a == b for a, b in zip(done.token_ids, together[index], strict=True))
    engine.close()
    print("equal tokens:", equal, "of", 40 * len(PROMPTS))
    assert equal >= 40 * len(PROMPTS) // 2
