"""What the host does for each step of a GPU, timed without one: scheduling, packing, delivering.

A step on a GPU is prepared while the one before it runs, so what is printed here is the least that
a step takes. `python jobs/bench_host.py [--workload label] [--max-num-seqs 1024] [--profile]`
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import torch

from batchgen.engine.attention.interface import MAX_SHARED_ITEMS, SharingShape
from batchgen.engine.config import GPU_BLOCK_SIZE
from batchgen.engine.cuda.buckets import Buckets
from batchgen.engine.cuda.graph_inputs import Sections, StepPacker, section_lengths
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.sampling.table import SamplingTable
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence_limit import SequenceLimit
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput
from batchgen.report.bench import run_work
from batchgen.report.workloads import WORKLOADS

_MAX_MODEL_LEN = 8448
_VOCAB = 151_936
_FEWEST = 256
_SHARING = SharingShape(
    members=64, grain=128, wanted_items=33, max_items=MAX_SHARED_ITEMS, worth_keys=6144
)
"""Qwen3-0.6B's on an H200."""


class HostRunner:
    """A `StepRunner` that packs as `GraphRunner` does and whose device answers at once."""

    COUNTS_TOKENS = True

    def __init__(self, num_slots: int, max_num_seqs: int, max_num_tokens: int) -> None:
        self._buckets = Buckets(max_num_tokens, max_num_seqs)
        self._packer = StepPacker(num_slots, -(-_MAX_MODEL_LEN // GPU_BLOCK_SIZE), GPU_BLOCK_SIZE)
        self._sampling = SamplingTable(num_slots, _VOCAB, torch.device("cpu"))
        largest = self._buckets.largest._replace(shares=True)
        self._flat = torch.zeros(sum(section_lengths(largest, GPU_BLOCK_SIZE)), dtype=torch.int32)

    def execute(self, step: ScheduledStep) -> ScheduledStep:
        """Pack."""
        self._sampling.admit(step)
        self._sampling.is_plain(step)
        shared = self._packer.plan_shared(step, _SHARING)
        bucket = self._buckets.find(step.total_tokens, len(step))
        sections = Sections.of(
            self._flat, bucket._replace(shares=shared is not None), GPU_BLOCK_SIZE
        )
        self._packer.pack(step, sections)
        if shared is not None:
            self._packer.pack_shared(shared, sections)
        return step

    def collect(self, handle: ScheduledStep) -> StepOutput:
        """Any tokens."""
        return StepOutput([7] * len(handle.sampled))


def _engine(max_num_seqs: int, num_blocks: int, mixed: int | None) -> LLMEngine:
    scheduler = Scheduler(
        BlockManager(num_blocks, GPU_BLOCK_SIZE),
        max_num_seqs,
        max(8192, max_num_seqs),
        reorder_window=1024,
        min_token_budget=mixed,
        prefix_caching=True,
        sequence_limit=SequenceLimit(
            min(max_num_seqs, _FEWEST), max_num_seqs, num_blocks * GPU_BLOCK_SIZE
        ),
    )
    runner = HostRunner(scheduler.num_slots, max_num_seqs, scheduler.max_num_batched_tokens)
    return LLMEngine(
        scheduler,
        runner,  # type: ignore[arg-type]
        max_model_len=_MAX_MODEL_LEN,
        vocab_size=_VOCAB,
        depth=1,
    )


def main() -> None:
    """Print a line a workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", action="append")
    parser.add_argument("--max-num-seqs", type=int, default=1024)
    parser.add_argument("--num-blocks", type=int, default=16_000)
    parser.add_argument("--min-token-budget", type=int)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    for name in args.workload or ["nano", "sharegpt", "prefix", "label", "documents", "classify"]:
        work = WORKLOADS[name]()
        engine = _engine(args.max_num_seqs, args.num_blocks, args.min_token_budget)
        profile = cProfile.Profile()
        cpu = time.process_time()
        if args.profile:
            profile.enable()
        run_work(engine, work)
        profile.disable()
        cpu = time.process_time() - cpu
        steps, tokens = engine.stats().num_steps, engine.stats().output_tokens
        print(
            f"{name:10} {cpu:7.2f} s  {steps:5} steps  {cpu / steps * 1e3:6.2f} ms a step  "
            f"{cpu / tokens * 1e6:6.2f} us a token  at most {tokens / cpu:9,.0f} tokens/s"
        )
        if args.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(28)


if __name__ == "__main__":
    main()
