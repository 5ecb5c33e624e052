"""Seeded benchmark workloads: fixed prompt and output lengths, random tokens, EOS ignored.

The same lengths as published peers use, so that figures can be set side by side: `nano` is
nano-vllm's own bench, `sharegpt` has ShareGPT's mean lengths, `prefix` is an offline labelling job
with one long instruction, `label` one with several, interleaved, `documents` asks many questions on
each of several documents, `long` reads long documents, `classify` has many tiny rows, `samples`
draws eight completions of each prompt, `seed6` is six rows of which one is far longer than the
rest, `mixed` 64 rows of skewed lengths.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "DEFAULT_VOCAB",
    "WORKLOADS",
    "WorkItem",
    "from_lengths",
    "mixed_lengths",
    "save_workload",
]

DEFAULT_VOCAB = 10_000


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One request of a benchmark: its prompt and exactly how many tokens it generates."""

    prompt_token_ids: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Of a real row: what it names of `SamplingParams` that chooses its tokens."""


def _tokens(rng: random.Random, count: int, vocab: int) -> list[int]:
    return [rng.randint(0, vocab - 1) for _ in range(count)]


def _lognormal(rng: random.Random, mu: float, sigma: float) -> int:
    return max(4, min(1024, int(rng.lognormvariate(mu, sigma))))


def nano(rows: int = 256, vocab: int = DEFAULT_VOCAB, seed: int = 0) -> list[WorkItem]:
    """Prompt and output lengths uniform in 100..1024."""
    rng = random.Random(seed)
    return [
        WorkItem(_tokens(rng, rng.randint(100, 1024), vocab), rng.randint(100, 1024))
        for _ in range(rows)
    ]


def sharegpt(rows: int = 1024, vocab: int = DEFAULT_VOCAB, seed: int = 0) -> list[WorkItem]:
    """Lognormal lengths with ShareGPT's means, about 220 in and 190 out, clipped to 1024."""
    rng = random.Random(seed)
    return [
        WorkItem(_tokens(rng, _lognormal(rng, 4.6, 1.2), vocab), _lognormal(rng, 4.9, 0.9))
        for _ in range(rows)
    ]


def prefix(
    rows: int = 1024, vocab: int = DEFAULT_VOCAB, seed: int = 0, shared: int = 1024
) -> list[WorkItem]:
    """One shared instruction of `shared` tokens, 64 tokens of each row's own, short outputs."""
    return label(rows, vocab, seed, 1, shared)


def label(
    rows: int = 1024,
    vocab: int = DEFAULT_VOCAB,
    seed: int = 0,
    instructions: int = 8,
    shared: int = 512,
) -> list[WorkItem]:
    """Several instructions of `shared` tokens, interleaved; else as `prefix`."""
    rng = random.Random(seed)
    heads = [_tokens(rng, shared, vocab) for _ in range(instructions)]
    return [
        WorkItem(heads[i % instructions] + _tokens(rng, 64, vocab), rng.randint(16, 64))
        for i in range(rows)
    ]


def documents(
    rows: int = 1024,
    vocab: int = DEFAULT_VOCAB,
    seed: int = 0,
    questions: int = 32,
    length: int = 4096,
) -> list[WorkItem]:
    """`questions` rows of 32 tokens on each document of `length` tokens, 32 to 96 out."""
    rng = random.Random(seed)
    pages = [_tokens(rng, length, vocab) for _ in range(-(-rows // questions))]
    items = [
        WorkItem(pages[i // questions] + _tokens(rng, 32, vocab), rng.randint(32, 96))
        for i in range(rows)
    ]
    rng.shuffle(items)
    return items


def long(rows: int = 64, vocab: int = DEFAULT_VOCAB, seed: int = 0) -> list[WorkItem]:
    """Documents of 4,096 to 7,936 tokens, 256 out."""
    rng = random.Random(seed)
    return [WorkItem(_tokens(rng, rng.randint(4096, 7936), vocab), 256) for _ in range(rows)]


def classify(rows: int = 8192, vocab: int = DEFAULT_VOCAB, seed: int = 0) -> list[WorkItem]:
    """Many rows of 8 to 64 tokens, 1 to 4 out."""
    rng = random.Random(seed)
    return [
        WorkItem(_tokens(rng, rng.randint(8, 64), vocab), rng.randint(1, 4)) for _ in range(rows)
    ]


def samples(
    rows: int = 512, vocab: int = DEFAULT_VOCAB, seed: int = 0, n: int = 8
) -> list[WorkItem]:
    """`n` rows in a row have one prompt of 100 to 1,024 tokens; each draws 100 to 512 tokens."""
    rng = random.Random(seed)
    items: list[WorkItem] = []
    while len(items) < rows:
        prompt = _tokens(rng, rng.randint(100, 1024), vocab)
        items += [WorkItem(prompt, rng.randint(100, 512), temperature=1.0) for _ in range(n)]
    return items[:rows]


def seed6(rows: int = 6, vocab: int = DEFAULT_VOCAB, seed: int = 0) -> list[WorkItem]:
    """Six requests of varied lengths, one far longer than the rest."""
    lengths = [(12, 20), (30, 40), (8, 60), (45, 100), (20, 30), (60, 500)]
    return from_lengths(lengths[:rows], vocab, seed)


def mixed(rows: int = 64, vocab: int = DEFAULT_VOCAB, seed: int = 165) -> list[WorkItem]:
    """Prompts of 20 to 300 tokens, outputs of 8 to 256, most of them short."""
    return from_lengths(mixed_lengths(rows, seed), vocab, seed)


def mixed_lengths(count: int = 64, seed: int = 165) -> list[tuple[int, int]]:
    """(prompt, output) lengths; the extremes of both ranges are among them."""
    rng = random.Random(seed)
    pairs = [(20, 8), (300, 256)][:count]
    while len(pairs) < count:
        pairs.append((20 + round(280 * rng.random() ** 1.98), 8 + round(248 * rng.random() ** 2.1)))
    rng.shuffle(pairs)
    return pairs


def from_lengths(
    lengths: Sequence[tuple[int, int]], vocab: int = DEFAULT_VOCAB, seed: int = 0
) -> list[WorkItem]:
    """Random prompts with the given (prompt tokens, output tokens), e.g. those of a real file."""
    rng = random.Random(seed)
    return [WorkItem(_tokens(rng, n_in, vocab), n_out) for n_in, n_out in lengths]


WORKLOADS: dict[str, Callable[..., list[WorkItem]]] = {
    "nano": nano,
    "sharegpt": sharegpt,
    "prefix": prefix,
    "label": label,
    "documents": documents,
    "long": long,
    "classify": classify,
    "samples": samples,
    "seed6": seed6,
    "mixed": mixed,
}


def save_workload(work: Sequence[WorkItem], file: Path) -> None:
    """Write a workload as one JSON array of objects with the names of `WorkItem`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([_saved(item) for item in work]) + "\n", encoding="utf-8")


def _saved(item: WorkItem) -> dict[str, Any]:
    named = {**asdict(item), "prompt_token_ids": list(item.prompt_token_ids)}
    if not named["sampling"]:
        del named["sampling"]
    return named
