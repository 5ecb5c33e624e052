"""How many sequences run at once: as many as make the rest of the job cheaper.

A step has a fixed cost whatever is in it (kernel launches, reading the weights, the host's work),
so fewer, fuller steps are cheaper. Two things limit that:

- A job takes at least as many steps as its longest sequence still has tokens to generate. With more
  sequences at once than (tokens still to be generated / those of the longest), the other ones only
  finish earlier, and the longest decodes on in nearly empty steps.
- The KV cache must hold them as they grow: a preempted sequence is computed again.

So the rows of a large job run a thousand at a time where memory allows, those of a small job a few
hundred. That reading their own keys soon takes longer than the fixed cost is no reason to stop: the
more share it, the less of it each one has. (Played through with costs that an H200 showed: 6,000
rows of ShareGPT's lengths take 5% less with an 8B model than where own keys were a limit, 16% less
with one of 0.6B.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["STEPS_BETWEEN_LOOKS", "SequenceLimit"]

STEPS_BETWEEN_LOOKS = 16
"""Looking at all running sequences takes time on the host."""
_UNEVEN = 1.5
"""More than an even spread allows: rows with a common prefix are admitted together, so some long
ones begin late."""
_ROOM_SHARE = 0.9
"""The rest is for prefixes, and for sequences that become longer than expected."""


class SequenceLimit:
    """Between `fewest` sequences, which always pay, and `most`, for which there are slots.

    More than `fewest` run only while all running sequences together are expected to stay within
    most of `room`, the tokens that the KV cache holds; shared prefixes are left out.
    """

    def __init__(self, fewest: int, most: int, room: int) -> None:
        self.most = most
        self._fewest = fewest
        self._most_held_tokens = _ROOM_SHARE * room
        self.wanted = fewest
        """The number that paid when it was last looked at; `current` may be lower."""
        self._held_tokens = 0.0
        """The most that those running will hold at once."""
        self._age = STEPS_BETWEEN_LOOKS
        self._arrived = True

    def holds(self, rows: list[tuple[float, float]], output_share: float) -> bool:
        """Whether rows (limit of tokens to come, tokens now) that run at once stay within it."""
        return _most_held(rows, output_share) <= self._most_held_tokens

    def note_arrival(self) -> None:
        """A sequence waits from now on."""
        self._arrived = True

    def note_admission(self, num_own_tokens: int, outputs: float) -> None:
        """A sequence runs from now on: its tokens outside shared prefixes, and how many it is
        expected to generate."""
        self._held_tokens += num_own_tokens + outputs

    def note_idle_step(self) -> None:
        """Nobody waits in this step."""
        self._age += 1

    @property
    def current(self) -> int:
        """How many may run in this step; each admission may lower it."""
        return self.wanted if self._held_tokens < self._most_held_tokens else self._fewest

    def begin_step(
        self,
        running: Collection[Sequence],
        waiting_outputs: float,
        output_share: float = 1.0,
    ) -> None:
        """Look at the running sequences, now and then, before others are admitted.

        waiting_outputs: tokens that waiting sequences are expected to generate; output_share: how
        much of their limits sequences generate.
        """
        self._age += 1
        if self.most <= self._fewest or len(running) < self._fewest // 2:
            self.wanted = self._fewest
        elif self._age >= STEPS_BETWEEN_LOOKS:
            self._look(running, waiting_outputs, output_share)

    def _look(
        self, running: Iterable[Sequence], waiting_outputs: float, output_share: float
    ) -> None:
        self._age = 0
        rows = [
            (sequence.num_remaining, sequence.num_tokens - sequence.num_shared_tokens)
            for sequence in running
        ]
        outputs, longest = sum(remaining for remaining, _ in rows), max(rows, default=(1, 0))[0]
        self._held_tokens = _most_held(rows, output_share)
        steps_of_all = int((outputs + waiting_outputs) * _UNEVEN / max(1, longest))
        wanted = max(self._fewest, min(self.most, steps_of_all))
        # While nobody new arrives the limit does not fall: the few that are left had better begin
        # at once, as the last of them to begin ends the job.
        self.wanted = wanted if self._arrived else max(wanted, self.wanted)
        self._arrived = False


def _most_held(rows: Iterable[tuple[float, float]], output_share: float) -> float:
    """The most tokens that sequences (limit of tokens to come, tokens now) hold at once, each
    until its end, if nobody joins them: just before one of them ends."""
    held = most = 0.0
    for count, (remaining, tokens) in enumerate(sorted(rows, reverse=True), start=1):
        held += tokens
        most = max(most, held + count * remaining * output_share)
    return most
