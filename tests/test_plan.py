"""`batchgen plan`: counts that are right, and a time that is near what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from echo_runs import write_rows

from batchgen.cli.plan import _GPUS, plan
from batchgen.job.ahead.cost import GPUS, ModelShape, num_steps, seconds_of
from batchgen.report.workloads import nano, sharegpt

SMALL = ModelShape(596_049_920, 2 * 596_049_920, 114_688)  # Qwen3-0.6B
LARGE = ModelShape(8_030_261_248, 2 * 8_030_261_248, 131_072)  # Llama-3-8B


@pytest.mark.parametrize(
    ("shape", "items", "measured"),
    [
        (SMALL, nano(), 26_471),
        (SMALL, sharegpt(), 47_529),
        (LARGE, nano(), 10_250),
        (LARGE, sharegpt(), 14_702),
    ],
    ids=["0.6B nano", "0.6B sharegpt", "8B nano", "8B sharegpt"],
)
def test_an_h200_s_measured_rates_are_met_within_8_percent(
    shape: ModelShape, items: Any, measured: int
) -> None:
    rows = [(len(item.prompt_token_ids), item.max_tokens) for item in items]
    rate = sum(output for _, output in rows) / seconds_of(rows, shape, GPUS["h200"], 256)
    assert rate == pytest.approx(measured, rel=0.08)


def test_steps_are_those_of_slots_that_are_refilled() -> None:
    assert num_steps([(1, 5), (1, 3), (1, 2)], 2) == 5
    assert num_steps([(1, 4)] * 4, 2) == 8
    assert num_steps([], 2) == 0
    assert list(GPUS) == _GPUS


def planned(tmp_path: Path, rows: list[dict[str, Any]], *more: str) -> dict[str, Any]:
    source = write_rows(tmp_path / "in.jsonl", rows)
    args = ["--in", str(source), "--json", "--max-tokens", "8", *more]
    found = CliRunner().invoke(plan, args, catch_exceptions=False)
    loaded: dict[str, Any] = json.loads(found.stdout)
    return loaded


def test_rows_bad_rows_and_long_prompts_are_counted(tmp_path: Path) -> None:
    same = {"prompt": "The same beginning of every row, word for word, again. " * 3}
    rows: list[dict[str, Any]] = [same, same, {"prompt": 5}, {"prompt": "word " * 200}]
    found = planned(tmp_path, rows, "--max-model-len", "150")
    assert (found["rows"], found["rows_read"]) == (4, 4)
    assert found["bad"] == {"invalid_row": 1, "prompt_too_long": 1}
    assert [origin.rpartition(":")[2] for origin in found["overlong"]] == ["4"]
    assert sum(found["histogram"].values()) == 2
    assert 0.3 < found["shared_share"] <= 0.5
    assert found["max_output_tokens"] == 16
    assert found["fits"]
    assert found["seconds"] > 0
    cut = planned(tmp_path, rows, "--max-model-len", "150", "--overlong", "truncate-left")
    assert (cut["truncated"], cut["bad"]) == (1, {"invalid_row": 1})
    skip = planned(tmp_path, rows, "--max-model-len", "150", "--overlong", "skip")
    assert (skip["skipped"], skip["bad"]) == (1, {"invalid_row": 1})
