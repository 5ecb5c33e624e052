"""The page on the inside is true: the steps that it shows are the scheduler's, its names exist."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from batchgen.engine.execution.packing import BatchBuilder
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput

PACKAGE = Path(__file__).parents[1] / "batchgen"
PAGE = (PACKAGE / "docs" / "inside.md").read_text(encoding="utf-8")
BLOCK_SIZE, BUDGET = 4, 8
REQUESTS = {
    "A": ([1, 2, 3, 4, 5], 3),
    "B": ([9] * 10, 2),
    "C": ([1, 2, 3, 4, 6, 7], 2),
}
"""Prompt, and tokens to generate."""


def steps() -> list[tuple[str, ScheduledStep]]:
    """Each step until all have finished, and the line that tells of it."""
    blocks = BlockManager(16, BLOCK_SIZE)
    scheduler = Scheduler(
        blocks, max_num_seqs=4, max_num_batched_tokens=BUDGET, prefix_caching=True
    )
    names: dict[Sequence, str] = {}
    for name, (prompt, most) in REQUESTS.items():
        request = Request(len(names), prompt, SamplingParams(max_tokens=most))
        sequence = Sequence(request, len(prompt) + most)
        names[sequence] = name
        scheduler.add(sequence)
    told = []
    while step := scheduler.schedule():
        rows = zip(step.sequences, step.starts, step.num_tokens, strict=True)
        words = [f"step {len(told) + 1}"]
        words += [f"{names[sequence]} {start}:{start + count}" for sequence, start, count in rows]
        words += ["samples", *(names[step.sequences[row]] for row in step.sampled)]
        finished = scheduler.update(step, StepOutput([50] * len(step.sampled)))
        words += ["finished", *(names[one] for one in finished)] if finished else []
        told.append((" ".join(words), step))
    return told


def test_the_steps_that_it_shows_are_those_of_the_scheduler() -> None:
    shown = re.search(r"```\n(step 1 .*?)```", PAGE, flags=re.DOTALL)
    assert shown is not None
    lines = [" ".join(line.split()) for line in shown[1].splitlines()]
    assert lines == [line for line, _ in steps()]


def test_the_numbers_of_its_packed_step_are_those_of_the_builder() -> None:
    builder = BatchBuilder(8, 4, BLOCK_SIZE, torch.device("cpu"))
    batches = [builder.build(step) for _, step in steps()]
    third = batches[2]
    for name, values in {
        "positions": third.positions,
        "cu_seqlens_q": third.metadata.cu_seqlens_q,
        "seq_lens": third.metadata.seq_lens,
    }.items():
        shown = re.search(rf"`{name}` ((?:\d+, )*\d+)", PAGE)
        assert shown is not None
        assert [int(number) for number in shown[1].split(",")] == values.tolist()


def test_every_name_that_it_has_is_in_the_code() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    files = {path.name for path in PACKAGE.rglob("*.*")}
    folders = {path.name for path in PACKAGE.rglob("*") if path.is_dir()}
    for name in re.findall(r"`([A-Za-z_][\w./]*)`", PAGE):
        last = name.rpartition("/")[2]
        known = last in files or last in folders
        assert known or re.search(rf"\b{re.escape(last.rpartition('.')[2])}\b", text), name
