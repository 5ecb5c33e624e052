from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_model import FakeModel

from batchgen.engine.config import WAITING_PER_SEQUENCE, EngineConfig
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run import cache_size, factory, resolved_config
from batchgen.engine.run.factory import build_engine
from batchgen.engine.run.resolved_config import resolve
from batchgen.engine.weights import Weights
from batchgen.errors import UsageError
from batchgen.job.flow.engine_stage import WINDOW_ROWS


def _config(**changes: Any) -> EngineConfig:
    return EngineConfig(Path("fake"), **changes)


def test_every_open_decision_is_made_and_logged_once_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "batchgen")
    resolved = resolve(FakeModel(), _config())
    assert (resolved.max_num_seqs, resolved.depth) == (64, 0)
    assert 512 <= resolved.max_num_batched_tokens <= 2048
    assert resolved.max_model_len == 512
    for name in ("max_num_seqs", "max_num_batched_tokens", "block_size", "num_blocks"):
        lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith(f"{name} =")]
        assert len(lines) == 1, name
        assert ": " in lines[0], "no reason given"


def test_what_the_user_gave_is_kept_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batchgen")
    given = {"max_num_seqs": 3, "max_num_batched_tokens": 33, "block_size": 8, "num_blocks": 9}
    resolved = resolve(FakeModel(), _config(max_model_len=40, reorder_window=1, **given))
    assert {name: getattr(resolved, name) for name in given} == given
    assert resolved.max_model_len == 40
    assert not caplog.records


def test_the_cache_is_no_larger_than_the_sequences_can_use() -> None:
    given = {"max_num_seqs": 4, "block_size": 16, "reorder_window": 5}
    resolved = resolve(FakeModel(max_position=100), _config(enable_prefix_caching=False, **given))
    assert resolved.num_blocks == 4 * 7
    resolved = resolve(FakeModel(max_position=100), _config(**given))
    assert resolved.num_blocks == (4 + 5) * 7, "and what a window of rows leaves to be found"


def test_little_memory_makes_a_small_cache_and_a_shorter_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_size, "available_host_memory", lambda: 4 * 16 * 16 * 10)
    resolved = resolve(FakeModel(), _config(block_size=16))
    assert resolved.num_blocks == 10
    assert resolved.max_model_len == 160


def test_no_memory_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_size, "available_host_memory", lambda: 100)
    with pytest.raises(UsageError, match="no memory is left for the KV cache") as info:
        resolve(FakeModel(), _config())
    assert info.value.hint


def test_a_length_beyond_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match="max_model_len 513 exceeds the model's 512"):
        resolve(FakeModel(), _config(max_model_len=513))


def test_a_model_that_is_exact_up_to_a_row_length_gets_shorter_steps() -> None:
    model = FakeModel()
    model.max_num_tokens = 100
    assert resolve(model, _config()).max_num_batched_tokens == 100


@pytest.mark.parametrize(
    ("billions", "chosen", "bound"), [(8, None, 512), (1, None, None), (8, 4096, None)]
)
def test_on_a_gpu_a_large_model_computes_prompts_beside_decode(
    billions: int, chosen: int | None, bound: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolved_config, "device_memory", lambda _device: 80 << 30)
    model = FakeModel()
    model.device = torch.device("cuda")
    model.weights = Weights(billions * 10**9, 0, 0)  # type: ignore[attr-defined]
    config = _config(num_blocks=99, max_num_batched_tokens=chosen)
    assert resolve(model, config).min_token_budget == bound


@pytest.mark.parametrize(
    ("gigabytes", "chosen", "slots"),
    [
        (24, None, (256, 256)),
        (48, None, (256, 512)),
        (80, None, (256, 1024)),
        (80, 300, (300, 300)),
    ],
)
def test_a_gpu_with_memory_has_slots_to_add_where_they_pay(
    gigabytes: int, chosen: int | None, slots: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolved_config, "device_memory", lambda _device: gigabytes << 30)
    model = FakeModel()
    model.device = torch.device("cuda")
    resolved = resolve(model, _config(num_blocks=99, max_num_seqs=chosen))
    assert (resolved.fewest_seqs, resolved.max_num_seqs) == slots


@pytest.mark.parametrize(("device", "gigabytes"), [("cpu", 80), ("cuda", 24), ("cuda", 80)])
def test_a_gpu_orders_all_rows_that_a_job_lets_wait_by_what_they_share(
    device: str, gigabytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolved_config, "device_memory", lambda _device: gigabytes << 30)
    model = FakeModel()
    model.device = torch.device(device)
    resolved = resolve(model, _config(num_blocks=99))
    waiting = max(WINDOW_ROWS, WAITING_PER_SEQUENCE * resolved.max_num_seqs)
    assert resolved.reorder_window == (waiting if device == "cuda" else 1024)


def test_a_built_engine_says_where_it_runs_and_runs() -> None:
    engine = build_engine(FakeModel(), _config())
    assert engine.stats().device == "cpu"
    engine.add(Request(1, [1, 2], SamplingParams(max_tokens=3)))
    completions = [c for _ in range(3) for c in engine.step()]
    assert len(completions[0].token_ids) == 3


def test_a_script_finds_the_engine_under_the_name_it_has_always_had() -> None:
    door = importlib.import_module("batchgen.engine.factory")
    assert door.load_engine is factory.load_engine
