"""The oracle of every parity test: `transformers.generate`, one row at a time, eager, fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from engine_runs import tokens_in_order

from batchgen.engine.config import EngineConfig
from batchgen.engine.model.model import Model
from batchgen.engine.request import Engine, Request, SamplingParams
from batchgen.engine.run.factory import build_engine
from batchgen.engine.stats import EngineStats

NEAR_TIE = 1e-4
MAX_NEAR_TIES = 0.05
"""Share of rows that may part from the oracle: more would hide a defect."""


@dataclass(frozen=True)
class Parting:
    """Where a row leaves the oracle; `gap`: how far its token lies below the best one there."""

    row: int
    position: int
    gap: float


class Oracle:
    """A fresh model that is asked row by row."""

    def __init__(self, module: Any) -> None:
        module.generation_config.eos_token_id = None
        module.generation_config.pad_token_id = 0
        self.module = module

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Greedy tokens after the prompt, end tokens ignored."""
        ids = torch.tensor([list(prompt)], device=self.module.device)
        output = self.module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
        )
        tokens: list[int] = output[0, len(prompt) :].tolist()
        return tokens

    @torch.inference_mode()
    def gap(self, context: Sequence[int], token: int) -> float:
        """How far `token` lies below the best one after `context`."""
        ids = torch.tensor([list(context)], device=self.module.device)
        logits = self.module(ids, use_cache=False).logits[0, -1]
        return float(logits.max() - logits[token])


def assert_parity(
    oracle: Oracle,
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    actual: Sequence[Sequence[int]],
    near_tie: float = NEAR_TIE,
    share: float = MAX_NEAR_TIES,
) -> list[Parting]:
    """Equal tokens, but for places where the oracle is of two minds; those are printed.

    At most this `share` of the rows may have one.
    """
    partings = []
    for row, (wanted, given) in enumerate(zip(expected, actual, strict=True)):
        assert len(given) == len(wanted), f"row {row}: {len(given)} tokens, not {len(wanted)}"
        if list(given) == list(wanted):
            continue
        place = [a == b for a, b in zip(given, wanted, strict=True)].index(False)
        gap = oracle.gap([*prompts[row], *wanted[:place]], given[place])
        partings.append(Parting(row, place, gap))
        print(f"row {row} parts from the oracle at token {place}: gap {gap:.2e}")
        assert gap <= near_tie, f"row {row} differs at token {place}, {gap:.2e} below the best"
    assert len(partings) <= max(1, share * len(prompts)), partings
    return partings


def greedy_tokens(
    engine: Engine, prompts: Sequence[Sequence[int]], num_tokens: int
) -> list[list[int]]:
    """Of all rows, in order, end tokens ignored."""
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    requests = [Request(row, prompt, params) for row, prompt in enumerate(prompts)]
    return tokens_in_order(engine, requests)


def run_engine(
    model: Model, prompts: Sequence[Sequence[int]], num_tokens: int, **config: Any
) -> tuple[list[list[int]], EngineStats]:
    """Greedy tokens of all rows, in order, end tokens ignored."""
    engine = build_engine(model, EngineConfig(model=Path("tiny"), **config))
    tokens = greedy_tokens(engine, prompts, num_tokens)
    stats = engine.stats()
    engine.close()
    return tokens, stats
