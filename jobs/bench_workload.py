"""What the CPU benchmarks share: rows of fixed lengths, and a batchgen run.

Lengths are seeded and skewed to short ones: 64 rows, prompts of 20 to 300 and outputs of 8 to 256
tokens. The text is sample_data/general.jsonl; EOS is ignored, so every run does the same work.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from contenders import Contender, measure

from batchgen.cli.process.threads import settle_waiting
from batchgen.engine.config import EngineConfig
from batchgen.engine.request import Engine, Request, SamplingParams
from batchgen.engine.run.factory import load_engine
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec
from batchgen.report.workloads import WorkItem

settle_waiting()  # as the command does; read when the first thread waits
PROMPTS = Path(__file__).parent.parent / "sample_data" / "general.jsonl"


def make_rows(model: str, lengths: list[tuple[int, int]]) -> tuple[Path, list[WorkItem]]:
    """Rows of the given lengths, cut from the sample prompts; and where the model lies."""
    files = resolve_model(model)
    texts = [json.loads(line)["prompt"] for line in PROMPTS.read_text().splitlines()]
    encoded = load_codec(files).encode_batch([text for text in texts if text])
    stream = [token for ids in encoded for token in ids]
    rows, at = [], 0
    for num_prompt, num_output in lengths:
        prompt = [stream[(at + i) % len(stream)] for i in range(num_prompt)]
        rows.append(WorkItem(prompt, num_output))
        at += num_prompt
    return files.path, rows


def make_engine(path: Path, dtype: str, max_num_seqs: int, **more: Any) -> Engine:
    """Without the prefix cache, unless `more` asks for it: a second run of the same rows would
    find their prompts computed."""
    more = {"enable_prefix_caching": False, "max_model_len": 1024} | more
    config = EngineConfig(model=path, device="cpu", dtype=dtype, max_num_seqs=max_num_seqs, **more)
    return load_engine(config)


def engine_of(path: Path, settings: str, max_num_seqs: int, **defaults: Any) -> Engine:
    """Settings of EngineConfig as they are written: `NAME=VALUE,...`."""
    named: dict[str, Any] = defaults | dict(pair.split("=", 1) for pair in settings.split(","))
    return make_engine(path, max_num_seqs=max_num_seqs, **named)


def make_contender(name: str, engine: Engine, rows: list[WorkItem]) -> Contender:
    """An engine with these rows, warmed up on a few tokens."""
    warm_up(engine, [row.prompt_token_ids for row in rows])
    return Contender(name, partial(measure, partial(run_rows, engine, rows)))


def warm_up(engine: Engine, prompts: list[list[int]]) -> None:
    """Four tokens after the beginning of each of the first prompts."""
    run_rows(engine, [WorkItem(prompt[:20], 4) for prompt in prompts[:8]])


def run_rows(engine: Engine, rows: list[WorkItem]) -> list[list[int]]:
    """All rows through the engine at once: admitted as soon as there is room."""
    for index, row in enumerate(rows):
        params = SamplingParams(max_tokens=row.max_tokens, ignore_eos=True)
        engine.add(Request(index, row.prompt_token_ids, params))
    tokens: dict[int, list[int]] = {}
    while engine.num_unfinished:
        tokens |= {done.request_id: done.token_ids for done in engine.step()}
    return [tokens[index] for index in range(len(rows))]
