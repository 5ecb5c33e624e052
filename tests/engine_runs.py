"""Engines run until nothing is left to do."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from batchgen.engine.request import Completion, Engine, Request
from batchgen.engine.sampling.sampler import SampledTokens, sample
from batchgen.engine.sampling.table import SamplingTable
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep


def completions_of(engine: Engine, requests: Iterable[Request]) -> dict[int, Completion]:
    """Of all requests, and of those that are queued, run to their end; each must finish once."""
    for request in requests:
        engine.add(request)
    completions: dict[int, Completion] = {}
    for _ in range(20_000):
        if not engine.num_unfinished:
            return completions
        for completion in engine.step():
            assert completion.request_id not in completions, "finished twice"
            completions[completion.request_id] = completion
    raise AssertionError("the engine does not finish")


def tokens_of(completions: dict[int, Completion]) -> dict[int, list[int]]:
    """In the order of the requests' ids."""
    return {index: c.token_ids for index, c in sorted(completions.items())}


def tokens_in_order(engine: Engine, requests: Iterable[Request]) -> list[list[int]]:
    """Of all requests, none of which may fail, by their ids."""
    completions = completions_of(engine, requests)
    failures = [c.error_message for c in completions.values() if c.error_code is not None]
    assert not failures, failures
    return list(tokens_of(completions).values())


def sampled(sequences: list[Sequence], logits: torch.Tensor) -> SampledTokens:
    """One step in which each sequence is computed whole. logits: [num_seqs, vocab_size]"""
    step = ScheduledStep()
    for slot, sequence in enumerate(sequences):
        sequence.slot = slot
        sequence.num_computed_tokens = sequence.num_pending = 0  # may have been sampled before
        step.admitted.append(sequence)
        step.add(sequence, sequence.num_uncomputed_tokens)
    table = SamplingTable(len(sequences), logits.shape[1], torch.device("cpu"))
    table.admit(step)
    return sample(logits.clone(), table.gather(step))
