"""The Python API with the model inside the package: what the file job writes, `LLM` gives."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from echo_runs import CHANGING, output_rows, write_rows

from batchgen import LLM, EngineConfig, Request, SamplingParams, load_engine, run
from batchgen.job.model.files import resolve_model

ROOT = Path(__file__).parents[1]
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_tokens": 12, "seed": 5}
CHAT = [{"role": "user", "content": "What do foxes eat?"}]
ROWS: list[dict[str, Any]] = [
    {"prompt": "The small fox"},
    {"prompt": "The small fox", "temperature": 1.0},
    {"id": "own", "prompt": "A long letter", "temperature": 0.8, "top_p": 0.9, "seed": 11},
    {"messages": CHAT, "min_tokens": 3},
    {"messages": CHAT, "n": 3, "temperature": 1.2, "tag": "t"},
    {"prompt": "Rain and", "stop": ["e"], "logit_bias": {"5": -3}},
    {"prompt": "Rain and", "guided_regex": "[a-z]{3,5}"},
    {"prompt": "x", "max_tokens": 0},
    {"messages": [{"role": "user", "content": 5}]},
    {"prompt_token_ids": [3, 4, 5], "repetition_penalty": 1.3, "frequency_penalty": 0.5},
]


@pytest.fixture(scope="module")
def model() -> Iterator[LLM]:
    with LLM(**OPTIONS) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows that a file job writes."""
    folder = tmp_path_factory.mktemp("job")
    given = write_rows(folder / "in.jsonl", ROWS)
    fixed = {"quiet": True, "save_token_ids": True, "shard": "none", "max_failures": "100%"}
    run(inputs=given, out=folder / "out.parquet", **OPTIONS, **fixed)
    return output_rows(folder / "out.parquet")


@pytest.mark.parametrize("in_flight", [None, 1])
def test_results_equal_the_file_job_s_output(
    model: LLM, written: list[dict[str, Any]], in_flight: int | None
) -> None:
    results = list(model.generate(ROWS, max_in_flight=in_flight))
    assert len(results) == len(written) == len(ROWS) + 2
    assert {r.error_code for r in results} == {None, "invalid_param", "invalid_row"}
    for result, row in zip(results, written, strict=True):
        values = asdict(result)
        values |= values.pop("columns")
        same = [name for name in row if name not in CHANGING]
        assert {name: values.get(name) for name in same} == {name: row[name] for name in same}


def test_an_engine_takes_token_ids(model: LLM) -> None:
    """The page's way for those who have a tokenizer of their own."""
    files = resolve_model(None)
    config = EngineConfig(
        files.path, device="cpu", dtype="float32", eos_token_ids=files.eos_token_ids
    )
    engine = load_engine(config)
    prompt, params = [3, 4, 5], SamplingParams(max_tokens=8)
    engine.add(Request(0, prompt, params))
    while not (finished := engine.step()):
        continue
    (result,) = model.generate([prompt], params)
    assert finished[0].token_ids == result.token_ids
    engine.close()


TWO_AT_ONCE = """
import threading
from batchgen import LLM

found = {}

def work(n):
    with LLM(device="cpu", dtype="float32", max_tokens=5) as llm:
        found[n] = [result.token_ids for result in llm.generate(["The small fox"])]

threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 3
print(*found.values())
"""


def test_models_may_be_loaded_by_several_threads_at_once(model: LLM) -> None:
    (expected,) = model.generate(["The small fox"], {"max_tokens": 5})
    done = subprocess.run(
        [sys.executable, "-c", TWO_AT_ONCE], capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout.split("\n")[0] == " ".join([str([expected.token_ids])] * 3)


def test_the_page_s_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "batchgen/docs/python.md").read_text(encoding="utf-8")
    job, table = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHGEN_MAX_TOKENS", "2")
    write_rows(tmp_path / "prompts.jsonl", ROWS[:2])
    exec(compile(job, "python.md", "exec"), {})
    assert (tmp_path / "out.parquet").exists()
    names: dict[str, Any] = {}
    exec(compile(table, "python.md", "exec"), names)
    assert names["answers"]["id"].tolist() == ["a", "b"]
    assert names["answers"]["completion"].str.len().min() > 0
