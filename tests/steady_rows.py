"""Rows through a whole engine, and every bit of the logits that chose their tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from batchgen.engine.config import EngineConfig
from batchgen.engine.execution.step_runner import EagerRunner
from batchgen.engine.model.model import Model
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import build_engine
from batchgen.engine.scheduling.step import ScheduledStep

Rows = Mapping[int, Sequence[int]]
"""Row -> its prompt's tokens."""
Answers = dict[tuple[int, int], bytes]
"""(row, tokens before it) -> the logits of the next token, as bytes."""


@dataclass(frozen=True)
class Case:
    """Rows, and how an engine is to run them."""

    rows: dict[int, list[int]]
    settings: dict[str, Any]


def random_case(draw: random.Random, vocab_size: int = 97) -> Case:
    """Some rows begin alike; slots, chunks and a cache that is too small for all of them."""
    common = [draw.randrange(3, vocab_size) for _ in range(draw.choice([0, 17, 40]))]
    rows = {}
    for row in range(draw.randint(2, 9)):
        own = [draw.randrange(3, vocab_size) for _ in range(draw.randint(1, 45))]
        rows[row] = (common if draw.random() < 0.6 else []) + own
    order = list(rows)
    draw.shuffle(order)
    settings = {
        "max_num_seqs": draw.choice([1, 2, 4, 16]),
        "max_num_batched_tokens": draw.choice([16, 19, 64, 512]),
        "num_blocks": draw.choice([7, 9, 14, 200]),
        "enable_prefix_caching": draw.random() < 0.5,
        "reorder_window": draw.choice([1, 1024]),
    }
    return Case({row: rows[row] for row in order}, settings)


def answers(model: Model, rows: Rows, max_tokens: int = 8, **settings: Any) -> tuple[Answers, int]:
    """All logits that chose a token, and how often a row was preempted."""
    config = EngineConfig(model=None, device="cpu", fold=False, **settings)  # type: ignore[arg-type]
    engine = build_engine(model, config)
    found: Answers = {}
    execute, forward = EagerRunner.execute, EagerRunner._forward
    running: list[ScheduledStep] = []

    def noted(self: EagerRunner, step: ScheduledStep) -> Any:
        running[:] = [step]
        return execute(self, step)

    def logits_of(self: EagerRunner, batch: Any) -> torch.Tensor:
        logits = forward(self, batch)
        (step,) = running
        for place, row in enumerate(step.sampled):
            key = step.sequences[row].request.request_id, step.starts[row] + step.num_tokens[row]
            bits = logits[place].view(torch.uint8).numpy().tobytes()
            assert found.setdefault(key, bits) == bits  # computed again after a preemption
        return logits

    with (
        mock.patch.object(EagerRunner, "execute", noted),
        mock.patch.object(EagerRunner, "_forward", logits_of),
    ):
        for row, prompt in rows.items():
            engine.add(Request(row, list(prompt), SamplingParams(max_tokens=max_tokens)))
        while engine.num_unfinished:
            engine.step()
    return found, engine.stats().preemptions
