"""Steps that a CUDA graph can hold: forwards that never read a result of the device on the host."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from tiny_models import ONCE, PROVEN, THOROUGH, tiny_config, tiny_model
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from batchgen.engine.cuda import host_syncs as waiting
from batchgen.engine.cuda.host_syncs import WaitsForDeviceError, forbid_waiting
from batchgen.engine.model.binding import ATTENTION_NAME, CALL_ATTRIBUTE, use_attention
from batchgen.engine.model.limits import freeze_rope

EXPERTS = {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}
OLDER = version.parse(transformers.__version__) < version.parse("5.23")
WAITING = {"jetmoe", "longcat_flash"} | ({"aria_text"} if OLDER else set())
"""Their own code loops over the experts that tokens chose: they run without graphs."""


def attend(query: Any, key: Any, value: Any, sinks: Any) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[1], value.shape[2])


def forward_without_values(model_type: str) -> None:
    """A packed row through the model in bfloat16, as on a GPU, with tensors that have no values."""
    module = tiny_model(model_type).to(torch.bfloat16)
    for part in module.modules():
        setattr(part, CALL_ATTRIBUTE, attend)
    freeze_rope(module)
    use_attention(module, ATTENTION_NAME)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        row = torch.zeros(1, 8, dtype=torch.int64)
        module(input_ids=row, position_ids=row, use_cache=False)


def has_experts(model_type: str) -> bool:
    config = tiny_config(model_type).get_text_config()
    return any(getattr(config, name, None) for name in EXPERTS) or model_type in WAITING


@pytest.mark.parametrize("model_type", [*THOROUGH, *filter(has_experts, ONCE)])
def test_a_forward_needs_no_value_on_the_host(model_type: str) -> None:
    expected: Any = nullcontext()
    if model_type in WAITING:
        expected = pytest.raises((DataDependentOutputException, DynamicOutputShapeException))
    with expected:
        forward_without_values(model_type)


def test_the_models_with_experts_are_among_them() -> None:
    wanted = {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "olmoe", "phimoe"}
    assert all(has_experts(name) for name in wanted | {"granitemoe", "glm4_moe", *WAITING})
    assert not has_experts("llama")
    assert set(PROVEN) >= wanted


def test_waiting_is_told_from_other_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(waiting, "_set", modes.append)
    with pytest.raises(WaitsForDeviceError), forbid_waiting():
        raise RuntimeError("called a synchronizing CUDA operation")
    with pytest.raises(torch.OutOfMemoryError), forbid_waiting():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with forbid_waiting():
        assert modes[-1] == 2
    assert modes == [0, 2, 0, 2, 0, 2, 0]
