"""On a GPU experts are chosen in one kernel and run in groups through the loader, the proof,
compiled layers and graphs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mxfp4_folders import save_mxfp4
from test_quantized_gpu import PROMPTS, served
from tiny_models import MIXED, tiny_model

from batchgen.engine.config import EngineConfig
from batchgen.engine.mixture.layer import Experts
from batchgen.engine.mixture.packed import PackedExperts
from batchgen.engine.mixture.rounded import RoundedExperts
from batchgen.engine.mixture.router import Router
from batchgen.engine.run.loader import load_model

pytestmark = pytest.mark.cuda

SIZES = {"hidden_size": 256, "moe_intermediate_size": 128, "head_dim": 64, "vocab_size": 512}


def save_bfloat16(folder: Path) -> Path:
    tiny_model("qwen3_moe", **SIZES).save_pretrained(folder)
    return folder


def save_packed(folder: Path) -> Path:
    sizes = {"hidden_size": 256, "intermediate_size": 128, "head_dim": 64, "vocab_size": 512}
    return save_mxfp4(folder, **sizes, layer_types=MIXED)


KINDS: dict[str, tuple[Any, type, str | None]] = {
    "bf16": (save_bfloat16, Experts, None),
    "fp8": (save_bfloat16, RoundedExperts, "fp8"),
    "mxfp4": (save_packed, PackedExperts, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_proven_compiled_once_and_captured(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.utils import counters

    save, layer, quantization = KINDS[kind]
    config = EngineConfig(
        model=save(tmp_path), device="cuda", dtype="bfloat16", quantization=quantization,
        num_blocks=64,
    )  # fmt: skip
    model = load_model(config)
    parts = list(model.module.modules())
    assert sum(isinstance(part, layer) for part in parts) == 3, model.notes
    assert sum(isinstance(part, Router) for part in parts) == 3
    del model
    counters.clear()
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING):
        tokens = served(config)
    assert [len(row) for row in tokens] == [40] * len(PROMPTS)
    said = [record.message for record in caplog.records]
    assert not [text for text in said if "without CUDA graphs" in text or "as they are" in text]
    assert counters["stats"]["unique_graphs"] <= 2, dict(counters["stats"])
