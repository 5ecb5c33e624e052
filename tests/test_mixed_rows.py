"""Neighbours that differ in every parameter: each row says what it says alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchgen import LLM
from batchgen.job.model.files import resolve_model

COUNT = 40


@pytest.fixture(scope="module")
def job() -> Any:
    path = Path(__file__).parents[1] / "jobs" / "check_mixed.py"
    spec = importlib.util.spec_from_file_location("check_mixed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(job: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("adapters")
    path = resolve_model(None).path
    adapters = [
        str(job.random_adapter(folder / "a", path, ["q_proj", "down_proj"], 1)),
        str(job.random_adapter(folder / "b", path, ["v_proj", "up_proj"], 2)),
    ]
    chats = str(job.mood_template(folder))
    given: dict[str, Any] = {"adapter": adapters, "chat_template": chats, "max_num_seqs": 16}
    with LLM(device="cpu", dtype="float32", **given) as loaded:
        yield loaded


def test_each_row_of_a_mixed_batch_equals_the_row_alone(job: Any, model: LLM) -> None:
    rows = [job.random_row(number, most_tokens=8) for number in range(COUNT)]
    settings = {name for row in rows for name in row}
    assert settings >= {"temperature", "seed", "n", "stop", "adapter", "choices", "logit_bias"}
    mixed = list(model.generate(rows, max_in_flight=COUNT))
    alone = [
        replace(result, index=index)
        for index, row in enumerate(rows)
        for result in model.generate([row])
    ]
    assert job.differences(mixed, alone) == []
    assert [(one.id, one.error_message) for one in mixed if not one.ok] == []
    moods = {one.prompt.count("Be ") for one in mixed if one.prompt}
    assert moods == {0, 1}
    assert len({result.completion for result in mixed if result.ok}) > COUNT // 2
