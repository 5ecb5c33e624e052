"""A device without arithmetic: remembers which sequence wrote which cache slot, and checks."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence, SequenceStatus
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput

EOS = 0


@dataclass
class Workload:
    """Prompt and output limits of each sequence, and how the engine is set up."""

    lengths: list[tuple[int, int]]
    num_blocks: int = 64
    block_size: int = 4
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 16
    min_token_budget: int | None = None
    step_sizes: tuple[int, ...] = ()
    reorder_window: int = 1
    depth: int = 0
    abort_share: float = 0.0
    eos_share: float = 0.1
    fail_share: float = 0.0
    penalised_share: float = 0.0
    prefix_caching: bool = False
    prompts: list[list[int]] | None = None
    """In place of prompts of the given lengths: those that have beginnings in common."""
    seed: int = 0


@dataclass
class Simulation:
    """Runs a workload to its end, every promise checked at every step."""

    workload: Workload
    launched: deque[ScheduledStep] = field(default_factory=deque)
    memory: dict[int, tuple[Sequence, int]] = field(default_factory=dict)
    finished: list[Sequence] = field(default_factory=list)
    aborted: list[Sequence] = field(default_factory=list)
    num_preemptions: int = 0

    def __post_init__(self) -> None:
        w = self.workload
        self.random = random.Random(w.seed)
        self.scheduler = Scheduler(
            BlockManager(w.num_blocks, w.block_size),
            w.max_num_seqs,
            w.max_num_batched_tokens,
            reorder_window=w.reorder_window,
            min_token_budget=w.min_token_budget,
            prefix_caching=w.prefix_caching,
            step_sizes=w.step_sizes,
            block_copies=True,
        )
        self.sequences = [self._sequence(i, *pair) for i, pair in enumerate(w.lengths)]

    def run(self) -> Simulation:
        arriving = deque(self.sequences)
        for _ in range(100_000):
            for _ in range(self.random.randint(0, 3)):
                if arriving:
                    self.scheduler.add(arriving.popleft())
            self._maybe_abort()
            self._iterate()
            if not (arriving or self.launched or self._alive()):
                break
        else:
            raise AssertionError("the sequences never finish")
        self._check_integrity()
        assert self.scheduler.block_manager.num_free == self.workload.num_blocks
        assert not self.scheduler.draining
        return self

    def _sequence(self, index: int, num_prompt: int, max_tokens: int) -> Sequence:
        penalty = 1.2 if self.random.random() < self.workload.penalised_share else 1.0
        params = SamplingParams(max_tokens=max_tokens, repetition_penalty=penalty)
        prompt = list(range(1, num_prompt + 1))
        if self.workload.prompts is not None:
            prompt = self.workload.prompts[index]
        request = Request(index, prompt, params)
        return Sequence(request, num_prompt + max_tokens, frozenset({EOS}))

    def _alive(self) -> bool:
        return any(not s.is_finished for s in self.sequences)

    def _maybe_abort(self) -> None:
        if self.random.random() < self.workload.abort_share:
            sequence = self.random.choice(self.sequences)
            known = sequence in self.scheduler.waiting or sequence.block_table
            if known and not sequence.is_finished:
                self.scheduler.abort(sequence)
                self.aborted.append(sequence)

    def _iterate(self) -> None:
        oldest = next(iter(self.scheduler.running), None)
        step = self.scheduler.schedule()
        if len(self.scheduler.running) > 1 and oldest is not None:
            assert oldest not in step.preempted, "the oldest running sequence lost its blocks"
        self._check_integrity()
        self.num_preemptions += len(step.preempted)
        if len(step):
            self._execute(step)
            self.launched.append(step)
        elif not self.launched:
            idle = not (self.scheduler.running or self.scheduler.waiting)
            assert idle, "work is left, nothing is scheduled and nothing in flight"
        if self.launched and self.random.random() < self.workload.fail_share:
            while self.launched:
                self.scheduler.requeue(self.launched.pop())
        while len(self.launched) > (self.workload.depth if len(step) else 0):
            self._collect()
        self._check_integrity()

    def _execute(self, step: ScheduledStep) -> None:
        w = self.workload
        assert step.total_tokens == sum(step.num_tokens) <= w.max_num_batched_tokens
        assert len(step) <= w.max_num_seqs
        assert len(set(step.sequences)) == len(step), "a sequence twice in a step"
        assert len(set(step.slots)) == len(step), "a slot of two sequences"
        self._copy_blocks(step)
        for sequence, start, num_tokens in zip(
            step.sequences, step.starts, step.num_tokens, strict=True
        ):
            assert num_tokens > 0
            assert sequence.status is SequenceStatus.RUNNING
            assert start + num_tokens < sequence.max_num_tokens, "computed past its limit"
            self._check_memory(sequence, start)
            for position in range(start, start + num_tokens):
                self.memory[self._address(sequence, position)] = (sequence, position)
        self._check_one_writer(step)

    def _copy_blocks(self, step: ScheduledStep) -> None:
        size, copies = self.workload.block_size, step.block_copies
        targets = [copy.target for copy in copies]
        assert len(set(targets)) == len(targets), "a block that is copied to twice"
        assert not set(targets) & {copy.source for copy in copies}, "copies of copies"
        for _, source, target in copies:
            for offset in range(size):
                found = self.memory.get(source * size + offset)
                if found is not None:
                    self.memory[target * size + offset] = found

    def _check_memory(self, sequence: Sequence, end: int) -> None:
        """The cache holds this sequence's tokens up to `end`, whoever wrote them."""
        for position in range(end):
            writer, written = self.memory[self._address(sequence, position)]
            assert written == position
            if writer is not sequence:
                context = sequence.token_ids[: position + 1]
                assert len(context) == position + 1
                assert writer.token_ids[: position + 1] == context, "another sequence's tokens"

    def _check_one_writer(self, step: ScheduledStep) -> None:
        """What a step writes belongs to the writer alone, among all sequences in flight."""
        in_flight = {s for launched in [*self.launched, step] for s in launched.sequences}
        size = self.workload.block_size
        for writer, start in zip(step.sequences, step.starts, strict=True):
            written = set(writer.block_table[start // size :])
            for sequence in in_flight - {writer}:
                assert written.isdisjoint(sequence.block_table)

    def _address(self, sequence: Sequence, position: int) -> int:
        block = sequence.block_table[position // self.workload.block_size]
        return block * self.workload.block_size + position % self.workload.block_size

    def _collect(self) -> None:
        step = self.launched.popleft()
        tokens = [
            EOS if self.random.random() < self.workload.eos_share else 7 for _ in step.sampled
        ]
        finished = self.scheduler.update(step, StepOutput(tokens))
        assert not set(finished) & (set(self.finished) | set(self.aborted)), "finished twice"
        self.finished += finished

    def _check_integrity(self) -> None:
        self.scheduler.block_manager.check_integrity(s.block_table for s in self.sequences)
