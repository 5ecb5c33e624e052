"""What a folder's weights hold beyond the model that its config.json describes is told, and refused
where leaving it out would change answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import save_quantized
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from batchgen.engine.config import EngineConfig
from batchgen.engine.run.loader import load_model
from batchgen.errors import ModelRefusedError

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.0.self_attn.q_proj"


def changed(folder: Path, change: Callable[[Tensors], Any]) -> EngineConfig:
    """A tiny model of one layer whose file is changed after it was saved."""
    tiny_model("llama", num_hidden_layers=1).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return EngineConfig(model=folder, device="cpu")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({f"{LAYER}.bias": torch.ones(32)}, rf"a bias that .* nothing of, '{LAYER}.bias'"),
        ({f"{LAYER}.lora_A.weight": torch.ones(4, 32)}, "an adapter that is not merged"),
        (
            {f"{LAYER}.weight": torch.ones(32, 32, dtype=torch.int8)},
            rf"does not describe \(quantization_config\), the first is '{LAYER}.weight' in I8",
        ),
    ],
)
def test_what_would_change_answers_is_refused(more: Tensors, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match=message) as caught:
        load_model(changed(tmp_path, lambda state: state.update(more)))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_weights_in_integers_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = torch.ones(32, 32, dtype=torch.uint8)
    config = changed(tmp_path, lambda state: state.update({f"{LAYER}.weight": number}))
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    with pytest.raises(ModelRefusedError, match="in U8"):
        load_model(config)


@pytest.mark.parametrize(
    ("name", "is_told"),
    [
        ("model.layers.0.self_attn.q_norm.weight", True),
        ("model.layers.1.mlp.up_proj.weight", True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", False),
        ("model.layers.0.self_attn.k_scale", False),
        ("vision_tower.layers.0.proj.weight", False),
        (f"{LAYER}.bias", False),  # zeros, as some tools write them
    ],
)
def test_tensors_of_layers_that_are_not_read_are_told(
    name: str, is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_model(changed(tmp_path, lambda state: state.update({name: torch.zeros(8)})))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [name in text for text in told] == [True] * is_told


def test_a_description_that_lies_beside_is_named(tmp_path: Path) -> None:
    save_quantized(tmp_path, "gptq", num_hidden_layers=1)
    config = json.loads((tmp_path / "config.json").read_text())
    described = config.pop("quantization_config")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(described))
    with pytest.raises(ModelRefusedError, match=r"does not describe .*qweight'") as caught:
        load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert caught.value.hint is not None
    assert "put what quantize_config.json says there" in caught.value.hint


def test_of_a_whole_file_and_an_index_the_whole_file_is_read(tmp_path: Path) -> None:
    save_quantized(tmp_path, "fp8 dynamic", num_hidden_layers=1)
    stale = {"weight_map": {f"{LAYER}.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(stale))
    load_model(EngineConfig(model=tmp_path, device="cpu"))
