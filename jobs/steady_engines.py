"""Rows through engines of one loaded model, in many ways: their tokens, and a digest of the logits
that chose each. For `check_steady.py`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch

from batchgen.engine.config import EngineConfig
from batchgen.engine.execution.step_runner import EagerRunner
from batchgen.engine.memory import release_memory
from batchgen.engine.model.model import Model
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import build_engine, load_served
from batchgen.report.bench import run_work
from batchgen.report.workloads import WORKLOADS, WorkItem

__all__ = ["WAYS", "answers_of", "differences", "kernels_of", "rates_of", "served", "some_rows"]

_MOST_ROWS, _MOST_KERNELS = 4, 16
"""That are told."""

Rows = Sequence[tuple[int, list[int]]]
"""(row, its prompt's tokens), in the order in which they are given."""
Answers = dict[int, tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]]
"""Row -> its tokens, and for each of them the digests of the logits that it was chosen by."""
Key = tuple[int, int]
"""A row, and how many tokens come before the one that is chosen."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of one way."""

    answers: Answers
    steps: Mapping[Key, str]
    """What was in the step that chose a token."""
    preemptions: int


WAYS: dict[str, dict[str, Any]] = {
    "256 at once": {"max_num_seqs": 256},
    "1 at once": {"max_num_seqs": 1},
    "16 at once": {"max_num_seqs": 16},
    "shuffled": {"max_num_seqs": 256},
    "chunks of 192": {"max_num_seqs": 64, "max_num_batched_tokens": 192},
    "preempted": {"max_num_seqs": 64, "block_size": 16},
    "no prefix cache": {"max_num_seqs": 256, "enable_prefix_caching": False},
}


def some_rows(count: int, vocab_size: int) -> Rows:
    """Prompts of 5 to 400 tokens; half of them begin alike."""
    draw = random.Random(0)
    common = [draw.randrange(3, vocab_size) for _ in range(150)]
    rows = []
    for row in range(count):
        own = [draw.randrange(3, vocab_size) for _ in range(draw.randint(5, 250))]
        rows.append((row, (common if row % 2 else []) + own))
    return rows


@contextmanager
def served(config: EngineConfig) -> Iterator[Model]:
    """A model as a run has it: compiled and proven."""
    model, engine = load_served(config)
    engine.close()
    model.release_cache()
    try:
        yield model
    finally:
        del engine
        torch.compiler.reset()  # what one mode has compiled leaves the other its own count
        release_memory()


def answers_of(model: Model, config: EngineConfig, rows: Rows, way: str, max_tokens: int) -> Found:
    """The rows run in one of the WAYS."""
    settings = dict(WAYS[way])
    if way == "shuffled":
        rows = random.Random(1).sample(rows, len(rows))
    if way == "preempted":  # a quarter of what the rows that run at once would fill
        blocks = sorted(-(-(len(prompt) + max_tokens) // 16) for _, prompt in rows)
        settings["num_blocks"] = blocks[-1] + sum(blocks[-64:]) // 4
    with _noted(model.vocab_size) as notes:
        engine = build_engine(model, replace(config, fold=False, **settings))
        for row, prompt in rows:
            params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
            engine.add(Request(row, prompt, params, draw_key=row))
        tokens = {}
        while engine.num_unfinished:
            for done in engine.step():
                tokens[done.request_id] = tuple(done.token_ids)
    preemptions = engine.stats().preemptions
    engine.close()
    model.release_cache()
    digests = _by_place(notes)
    lengths = {row: len(prompt) for row, prompt in rows}
    answers = {
        row: (found, tuple(digests[row, lengths[row] + i] for i in range(len(found))))
        for row, found in tokens.items()
    }
    steps = {key: step for keys, step, _ in notes for key in keys if key is not None}
    return Found(answers, steps, preemptions)


def differences(found: Found, first: Found, rows: Rows) -> str:
    """Of rows with other bits than in the first way: where they begin, and in which steps."""
    lines, in_prompts, unequal = [], 0, 0
    for row, prompt in rows:
        pairs = zip(found.answers[row][1], first.answers[row][1], strict=True)
        places = [i for i, (got, wanted) in enumerate(pairs) if got != wanted]
        if places:
            unequal += 1
            in_prompts += places[0] == 0
            key = (row, len(prompt) + places[0])
            lines.append(
                f"  row {row}, prompt of {len(prompt)}: other bits from token {places[0]}, in "
                f"{len(places)}; there {found.steps[key]}; in the first way {first.steps[key]}"
            )
    said = f"  {unequal} rows, {in_prompts} from the prompt's own step; odd rows begin alike"
    return "\n".join([said, *lines[:_MOST_ROWS]])


def rates_of(
    model: Model, config: EngineConfig, workloads: Sequence[str], repeats: int
) -> dict[str, list[float]]:
    """Output tokens/s of each repeat, after one run to warm up."""
    engine = build_engine(model, config)
    found: dict[str, list[float]] = {}
    for name in workloads:
        work = WORKLOADS[name]()
        run_work(engine, work)
        found[name] = []
        for _ in range(repeats):
            engine.forget_prefixes()
            found[name].append(run_work(engine, work)[0].output_tokens_per_s)
    engine.close()
    model.release_cache()
    return found


def kernels_of(model: Model, config: EngineConfig) -> str:
    """The kernels that take longest in decode steps of 256 rows: ms, calls, name."""
    engine = build_engine(model, replace(config, max_num_seqs=256))
    work = [WorkItem([5 + i % 50] * 100, 40) for i in range(256)]
    run_work(engine, work)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run_work(engine, work)
    except RuntimeError as error:
        return f"kernels: not to be seen here: {error}"
    finally:
        engine.close()
        model.release_cache()
    found = sorted(profile.key_averages(), key=lambda one: -one.device_time_total)
    total = sum(one.device_time_total for one in found)
    lines = [f"kernels: {total / 1000:.1f} ms"]
    for one in found[:_MOST_KERNELS]:
        lines.append(f"{one.device_time_total / 1000:8.2f} ms {one.count:6d} {one.key[:70]}")
    return "\n".join(lines)


Notes = list[tuple[list[Key | None], str, torch.Tensor]]
"""Of a step: what each row of logits is for; what it holds; the digests."""


@contextmanager
def _noted(vocab_size: int) -> Iterator[Notes]:
    """While engines run: a digest of all logits, computed within the steps and their graphs."""
    notes: Notes = []
    steps: list[tuple[list[Key | None], str]] = []
    forward, execute = EagerRunner._forward, EagerRunner.execute

    def eager(self: EagerRunner, step: Any) -> Any:
        steps.append(([_key(step, row) for row in step.sampled], _held(step)))
        return execute(self, step)

    def noted(self: EagerRunner, batch: Any) -> torch.Tensor:
        logits = forward(self, batch)
        notes.append((*steps[-1], _digest(logits)))
        return logits

    with (
        mock.patch.object(EagerRunner, "execute", eager),
        mock.patch.object(EagerRunner, "_forward", noted),
        _noted_graphs(notes),
    ):
        yield notes


@contextmanager
def _noted_graphs(notes: Notes) -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    from batchgen.engine.cuda.graph_runner import GraphRunner

    execute, choose = GraphRunner.execute, GraphRunner._choose
    digests: dict[int, torch.Tensor] = {}

    def chosen(self: GraphRunner, logits: torch.Tensor, *args: Any) -> Any:
        if id(self) not in digests:  # first in a step that is no capture
            size = self._buckets.largest.num_seqs
            digests[id(self)] = torch.zeros(size, dtype=torch.int64, device=logits.device)
        digests[id(self)][: len(logits)].copy_(_digest(logits))
        return choose(self, logits, *args)

    def run(self: GraphRunner, step: Any) -> Any:
        handle = execute(self, step)
        sampled = set(step.sampled)
        keys = [_key(step, row) if row in sampled else None for row in range(len(step))]
        held = _held(step) + f", {handle.shared_read_tokens} keys read for several"
        notes.append((keys, held, digests[id(self)][: len(step)].clone()))
        return handle

    with (
        mock.patch.object(GraphRunner, "execute", run),
        mock.patch.object(GraphRunner, "_choose", chosen),
    ):
        yield


def _key(step: Any, row: int) -> Key:
    return step.sequences[row].request.request_id, step.starts[row] + step.num_tokens[row]


def _held(step: Any) -> str:
    return f"{step.total_tokens} tokens of {len(step)} rows"


def _digest(logits: torch.Tensor) -> torch.Tensor:
    """int64 [rows], of every bit: whole numbers are added up alike in any order."""
    words = torch.int16 if logits.dtype.itemsize == 2 else torch.int32
    places = torch.arange(logits.shape[1], device=logits.device)
    factors = places * -0x61C8864680B583EB + 0x5851F42D4C957F2D | 1
    return (logits.contiguous().view(words).long() * factors).sum(dim=-1)


def _by_place(notes: Notes) -> Mapping[Key, tuple[int, ...]]:
    """What was computed twice, by a row that was preempted, has several digests if they differ."""
    found: dict[Key, set[int]] = {}
    for keys, _, digests in notes:
        for key, digest in zip(keys, digests.tolist(), strict=True):
            if key is not None:
                found.setdefault(key, set()).add(digest)
    return {key: tuple(sorted(values)) for key, values in found.items()}
