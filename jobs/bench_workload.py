"""What the CPU benchmarks share: rows of fixed lengths, a batchgen run, and a look at the machine.

Lengths are seeded and skewed to short ones: 64 rows, prompts of 20 to 300 and outputs of 8 to 256
tokens. The text is sample_data/general.jsonl; EOS is ignored, so every run does the same work.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.engine.config import EngineConfig
from batchgen.engine.factory import load_engine
from batchgen.engine.request import Engine, Request, SamplingParams
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec
from batchgen.report.workloads import WorkItem

PROMPTS = Path(__file__).parent.parent / "sample_data" / "general.jsonl"
BUSY_CORES = 0.35
SIX_VARIED = ((12, 20), (30, 40), (8, 60), (45, 100), (20, 30), (60, 500))


@dataclass(frozen=True)
class Measured:
    """One timed run. `others` is the CPU that other processes took meanwhile, in cores."""

    seconds: float
    others: float
    tokens: list[list[int]]

    @property
    def quiet(self) -> bool:
        """Whether others left the machine alone."""
        return self.others <= BUSY_CORES

    @property
    def output_tokens_per_s(self) -> float:
        """All output tokens over the wall time, prompts included."""
        return sum(map(len, self.tokens)) / self.seconds


class Watch:
    """Wall time, and the CPU time that others took while it ran (from /proc/stat)."""

    def __enter__(self) -> Watch:
        self._busy, self._own, self._start = busy_seconds(), own_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        spent = busy_seconds() - self._busy - (own_seconds() - self._own)
        self.others = max(0.0, spent / self.seconds)


def busy_seconds() -> float:
    """CPU time of the whole machine but niced processes: user, system, interrupts, steal."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, _nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
    return (user + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def mixed_lengths(count: int = 64, seed: int = 165) -> list[tuple[int, int]]:
    """(prompt, output) lengths; the extremes of both ranges are among them."""
    rng = random.Random(seed)
    pairs = [(20, 8), (300, 256)]
    while len(pairs) < count:
        pairs.append((20 + round(280 * rng.random() ** 1.98), 8 + round(248 * rng.random() ** 2.1)))
    rng.shuffle(pairs)
    return pairs


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
    config = EngineConfig(
        model=path, device="cpu", dtype=dtype, max_num_seqs=max_num_seqs, max_model_len=1024, **more
    )
    return load_engine(config)


def run_rows(engine: Engine, rows: list[WorkItem], first_id: int = 0) -> list[list[int]]:
    """All rows through the engine at once: admitted as soon as there is room."""
    for index, row in enumerate(rows):
        params = SamplingParams(max_tokens=row.max_tokens, ignore_eos=True)
        engine.add(Request(first_id + index, row.prompt_token_ids, params))
    tokens: dict[int, list[int]] = {}
    while engine.num_unfinished:
        for done in engine.step():
            tokens[done.request_id - first_id] = done.token_ids
    return [tokens[index] for index in range(len(rows))]


def measure(run: Any) -> Measured:
    """Time one call that returns all rows' tokens."""
    with Watch() as watch:
        tokens = run()
    return Measured(watch.seconds, watch.others, tokens)
