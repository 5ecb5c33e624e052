"""Which tokens the next step computes. No phases: a step is `{sequence: num_tokens}`.

Every sequence has `num_computed_tokens` that catches up with `num_tokens`, under one token budget:
running sequences first, in the order of their admission, then waiting ones while blocks last. A
prompt that exceeds the budget is cut (chunked prefill); only the newest sequence can be mid-prompt,
so a chunk never delays a decode. When blocks run out, the newest sequence gives its own back and is
computed again later (preemption by recompute). The formulation is vLLM v1's.

For a large model a step of `min_token_budget` tokens takes no longer than one that only decodes:
both wait for the weights to be read. There `token_budget.py` spreads prompts over the steps left.

`schedule` may be called again before the tokens of the steps before it are known:

    schedule(n)  launch(n)  schedule(n+1)  launch(n+1)  update(n)  schedule(n+2) ...

Prefix caching: a prompt's full blocks can be found by their hash as soon as the step that computes
them is scheduled, so a sequence that is admitted to a later step and begins with the same tokens
starts behind them: steps run in order. Where it parts from them within a block, it gets a copy of
that block and starts there. A sequence that begins with blocks of the very step that is being
scheduled waits for the next one, while others behind it are admitted: so of rows with a common
prefix only the first computes it. If a step fails, its blocks are taken out of the cache.

When update(n) finds a sequence finished, step n+1 already has a row of it: that token is ignored.
The blocks of a sequence that left `running` *drain*: they are free once no launched step writes to
them.
"""

from __future__ import annotations

from batchgen.engine.prefix.ordering import Room
from batchgen.engine.request import FinishReason
from batchgen.engine.scheduling.admission import AdmissionQueue
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.decoding import add_decodes, append_tokens
from batchgen.engine.scheduling.prefix_cache import PrefixCache
from batchgen.engine.scheduling.scoring import num_fitting
from batchgen.engine.scheduling.sequence import Sequence, SequenceStatus
from batchgen.engine.scheduling.sequence_limit import SequenceLimit
from batchgen.engine.scheduling.step import BlockCopy, BlockUpdate, ScheduledStep, StepOutput
from batchgen.engine.scheduling.token_budget import TokenBudget

__all__ = ["Scheduler"]


class Scheduler:
    """Owns the queues and hands out blocks. Standard library only.

    `watermark`: share of all blocks that admission leaves free for running sequences to grow into.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        watermark: float = 0.01,
        reorder_window: int = 1,
        min_token_budget: int | None = None,
        prefix_caching: bool = False,
        max_num_scored: int = 1024,
        sequence_limit: SequenceLimit | None = None,
        step_sizes: tuple[int, ...] = (),
        block_copies: bool = False,
    ) -> None:
        self.block_manager = block_manager
        self._max_num_scored = max_num_scored
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self._sequence_limit = sequence_limit or SequenceLimit(max_num_seqs, max_num_seqs, 0)
        self._token_budget = TokenBudget(min_token_budget, self._sequence_limit, step_sizes)
        self._prefix_cache = PrefixCache(block_manager, enabled=prefix_caching, copies=block_copies)
        self._num_sharing_prefix = 0
        self._step_budget = max_num_batched_tokens  # of the step that is being made
        tokens = block_manager.num_blocks * block_manager.block_size
        self.waiting = AdmissionQueue(
            reorder_window, Room(max_num_seqs, tokens, block_manager.block_size)
        )
        self.running: dict[Sequence, None] = {}
        self.draining: set[Sequence] = set()
        self.num_preemptions = 0
        self.num_slots = 2 * max_num_seqs  # draining sequences keep theirs beside running ones
        self._free_slots = list(range(self.num_slots - 1, -1, -1))
        self._num_watermark_blocks = int(watermark * block_manager.num_blocks)

    @property
    def num_draining_blocks(self) -> int:
        """Blocks that come back as soon as launched steps do."""
        return sum(len(sequence.block_table) for sequence in self.draining)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; alone it must fit into the cache."""
        capacity = self.block_manager.num_blocks * self.block_manager.block_size
        if sequence.max_num_tokens > capacity:
            raise ValueError(f"{sequence.max_num_tokens} tokens exceed a cache of {capacity}")
        self._prefix_cache.hash_blocks(sequence)
        self._token_budget.note_waiting(sequence)
        self._sequence_limit.note_arrival()
        self.waiting.push(sequence)

    def schedule(self) -> ScheduledStep:
        """The next step, its tokens counted as computed; empty if nothing can be scheduled now."""
        step = ScheduledStep()
        self._step_budget = self._token_budget.current(self.max_num_batched_tokens, self.running)
        self._prefix_cache.begin_step()
        if self._schedule_running(step):
            self._admit_waiting(step)
        self._prefix_cache.end_step()
        step.num_sharing_prefix = self._num_sharing_prefix
        return step

    def update(self, step: ScheduledStep, output: StepOutput) -> list[Sequence]:
        """Deliver a launched step's tokens, in the order of launches; returns who finished now."""
        for sequence in step.sequences:
            sequence.num_in_flight -= 1
        for (row, begin, end), scores in zip(step.scored, output.scores, strict=True):
            step.sequences[row].take_scores(begin, end, *scores)
        finished: list[Sequence] = []
        for j, sequence in append_tokens(step, output.tokens, plainly=not output.failures):
            num_known = len(sequence.output_token_ids)
            is_finished = output.deliver(j, sequence)
            step.num_ignored += len(sequence.output_token_ids) == num_known
            if is_finished:
                self._token_budget.note_finished(sequence)
                self._leave(sequence)
                finished.append(sequence)
        self._release_drained()
        return finished

    def requeue(self, step: ScheduledStep) -> None:
        """Undo a launched step that brought no tokens: its sequences are computed again.

        Steps launched after it must have been requeued before.
        """
        block_size = self.block_manager.block_size
        for row in step.sampled:
            step.sequences[row].num_pending -= 1
        for sequence, start in zip(reversed(step.sequences), reversed(step.starts), strict=True):
            self.block_manager.forget(sequence.block_table[start // block_size :])
            sequence.num_computed_tokens = min(sequence.num_computed_tokens, start)
            sequence.num_in_flight -= 1
            if sequence.status is SequenceStatus.RUNNING:
                self._preempt(sequence)
        self._release_drained()

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is; its blocks return when launched steps are done."""
        if not sequence.is_finished:
            sequence.finish(FinishReason.ERROR)
        self._leave(sequence)
        self._release_drained()

    def _schedule_running(self, step: ScheduledStep) -> bool:
        """Add rows of running sequences; whether blocks were left for all of them."""
        enough_blocks = True
        # Over a copy: to make room for an old one, new ones are preempted meanwhile.
        running = list(self.running)
        for sequence in add_decodes(running, step, self.max_num_seqs, self._step_budget):
            if sequence.status is not SequenceStatus.RUNNING:
                break  # not running any more: preempted in this pass, as is every newer one
            if not sequence.num_uncomputed_tokens:
                continue
            num_tokens = self._most_tokens(sequence, step)
            if not num_tokens:
                continue  # no room for its scores in this step
            if self._make_room(sequence, num_tokens, step):
                self._add_to_step(sequence, num_tokens, step)
            else:
                enough_blocks = False
        return enough_blocks and not step.preempted

    def _admit_waiting(self, step: ScheduledStep) -> None:
        if not self.waiting:
            self._sequence_limit.note_idle_step()
            return
        num_held = 0
        budget, limit = self._token_budget, self._sequence_limit
        limit.begin_step(self.running, budget.waiting_outputs, budget.output_share)
        for sequence in self.waiting.candidates():
            if len(step) >= limit.current or step.total_tokens >= self._step_budget:
                break
            if not self._free_slots or num_held >= self.max_num_seqs:
                break
            if sequence.num_in_flight:
                break  # nobody overtakes it
            cached = self._prefix_cache.find(sequence)
            if self._prefix_cache.is_fresh(cached):
                num_held += 1  # this step computes what it begins with
            elif sequence.request.targets and step.num_scored >= self._max_num_scored:
                num_held += 1  # this step has all the scores that it may have
            elif self._fits(sequence, cached):
                self._admit(sequence, cached, step)
            else:
                break

    def _admit(self, sequence: Sequence, cached: list[int], step: ScheduledStep) -> None:
        self._token_budget.note_left(sequence)
        num_shared = len(cached) * self.block_manager.block_size
        outputs = sequence.num_remaining * self._token_budget.output_share
        self._sequence_limit.note_admission(sequence.num_tokens - num_shared, outputs)
        sequence.num_shared_tokens = num_shared
        self.waiting.take(sequence)
        sequence.status = SequenceStatus.RUNNING
        sequence.slot = self._free_slots.pop()
        self.running[sequence] = None
        step.admitted.append(sequence)
        if cached:
            sequence.shares_prefix = True
            self._num_sharing_prefix += 1
            sequence.block_table += self.block_manager.share(cached)
            step.block_updates.append(BlockUpdate(sequence.slot, 0, cached))
        source, num_copied = self._prefix_cache.hold_beginning(sequence)
        num_cached = sequence.num_computed_tokens = num_shared + num_copied
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = min(num_cached, sequence.num_prompt_tokens)
        self._token_budget.note_admission(sequence.num_tokens, num_cached)
        self._add_to_step(sequence, self._most_tokens(sequence, step), step)
        if num_copied:
            target = sequence.block_table[len(cached)]
            step.block_copies.append(BlockCopy(sequence.slot, source, target))

    def _most_tokens(self, sequence: Sequence, step: ScheduledStep) -> int:
        """How many of its tokens the step has room for; 0: none of its scores."""
        num_tokens = min(sequence.num_uncomputed_tokens, self._step_budget - step.total_tokens)
        targets, room = sequence.request.targets, self._max_num_scored - step.num_scored
        if targets is None:
            return num_tokens
        return num_fitting(targets, sequence.num_computed_tokens, num_tokens, room)

    def _add_to_step(self, sequence: Sequence, num_tokens: int, step: ScheduledStep) -> None:
        end = sequence.num_computed_tokens + num_tokens
        blocks = self.block_manager.append(sequence.block_table, end)
        if blocks:
            first = len(sequence.block_table) - len(blocks)
            step.block_updates.append(BlockUpdate(sequence.slot, first, blocks))
        self._prefix_cache.note_computed(sequence, end - num_tokens, end)
        num_sampled = len(step.sampled)
        step.add(sequence, num_tokens)
        if sequence.is_complete:  # its last token is on its way
            del self.running[sequence]
            self.draining.add(sequence)
        elif len(step.sampled) > num_sampled:
            sequence.note_decoding(self.block_manager.block_size)

    def _make_room(self, sequence: Sequence, num_tokens: int, step: ScheduledStep) -> bool:
        """Preempt newest first until the tokens have blocks; False: not in this step."""
        manager = self.block_manager
        end = sequence.num_computed_tokens + num_tokens
        if end <= len(sequence.block_table) * manager.block_size:
            return True
        needed = manager.num_blocks_needed(sequence.block_table, end)
        while needed > manager.num_free:
            if needed <= manager.num_free + self.num_draining_blocks:
                return False  # enough blocks come back by themselves
            # The newest: it has least to compute again, and as the oldest always gets on, no
            # two can take each other's blocks for ever.
            victim = next(reversed(self.running))
            self._preempt(victim)
            step.preempted.append(victim)
            if victim is sequence:
                return False
        return True

    def _fits(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether all its known tokens have blocks, the watermark left free beside others."""
        needed = self.block_manager.num_blocks_for(sequence.num_tokens)
        needed -= len(cached) - self.block_manager.num_idle(cached)
        if self.running or self.draining:
            needed += self._num_watermark_blocks
        return needed <= self.block_manager.num_free

    def _preempt(self, sequence: Sequence) -> None:
        self._prefix_cache.hash_blocks(sequence)  # what it generated, too
        self._prefix_cache.note_computed(sequence, 0, sequence.num_computed_tokens)
        self._leave(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_computed_tokens = sequence.plain_until = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._token_budget.note_waiting(sequence)
        self.waiting.push(sequence)
        self._release_drained()

    def _leave(self, sequence: Sequence) -> None:
        """Off the queues; what it holds drains."""
        if sequence in self.waiting:
            self._token_budget.note_left(sequence)
            self.waiting.discard(sequence)
        self.running.pop(sequence, None)
        if sequence.block_table:
            self.draining.add(sequence)

    def _release_drained(self) -> None:
        for sequence in [s for s in self.draining if not s.num_in_flight]:
            self.draining.remove(sequence)
            self.block_manager.free(sequence.block_table)
            self._free_slots.append(sequence.slot)
            sequence.slot = -1
            self._num_sharing_prefix -= sequence.shares_prefix
            sequence.shares_prefix = False
