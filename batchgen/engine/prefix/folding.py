"""Equal requests are computed once: the first of them leads, the others take its answer.

Equal are requests with the same prompt and parameters that draw the same: greedily, or by the same
key. Folded ones are asked about among the unfinished requests alone, so memory stays that of the
window.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from dataclasses import replace
from hashlib import blake2b

from batchgen.engine.request import Completion, Request, Timings
from batchgen.engine.token_ids import token_array

__all__ = ["Folding", "fold_key"]


class Folding:
    """Who leads whom. `num_folded`: requests that were not computed themselves, so far."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._leaders: dict[Hashable, int] = {}
        self._keys: dict[int, Hashable] = {}
        self._followers: dict[int, dict[int, tuple[Request, float]]] = {}
        self._leader_of: dict[int, int] = {}
        self._begun: set[int] = set()
        self._late: list[int] = []  # they joined a leader that had begun
        self.num_folded = 0

    def __len__(self) -> int:
        """Unfinished requests that follow another one."""
        return len(self._leader_of)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._leader_of

    def join(self, request: Request, now: float) -> bool:
        """Whether it takes the answer of an equal unfinished one; else it leads from now on."""
        key = fold_key(request) if self._enabled else None
        if key is None:
            return False
        leader = self._leaders.setdefault(key, request.request_id)
        if leader == request.request_id:
            self._keys[leader] = key
            return False
        if leader in self._begun:
            self._late.append(request.request_id)
        self._followers.setdefault(leader, {})[request.request_id] = (request, now)
        self._leader_of[request.request_id] = leader
        self.num_folded += 1
        return True

    def begun(self, leaders: list[int]) -> list[int]:
        """Leaders that are computed from now on, with their followers, and those who joined one
        that was."""
        late, self._late = self._late, []
        self._begun.update(leader for leader in leaders if leader in self._keys)
        return late + [i for j in leaders for i in (j, *self._followers.get(j, ()))]

    def outputs(self, known: dict[int, list[int]]) -> dict[int, list[int]]:
        """What followers have by now, given what their leaders have."""
        return {i: list(known[leader]) for i, leader in self._leader_of.items()}

    def leave(self, request_id: int) -> tuple[Request, float] | None:
        """Forget a request. If others took its answer, the first of them leads now: it, and when it
        came."""
        leader = self._leader_of.pop(request_id, None)
        if leader is not None:
            del self._followers[leader][request_id]
            return None
        key = self._keys.pop(request_id, None)
        if key is None:
            return None
        del self._leaders[key]
        had_begun = request_id in self._begun
        self._begun.discard(request_id)
        followers = self._followers.pop(request_id, {})
        if not followers:
            return None
        heir = next(iter(followers))
        if had_begun:
            self._begun.add(heir)
        request, came = followers.pop(heir)
        del self._leader_of[heir]
        self._leaders[key], self._keys[heir], self._followers[heir] = heir, key, followers
        self._leader_of.update(dict.fromkeys(followers, heir))
        return request, came

    def finish(self, completion: Completion) -> list[Completion]:
        """A leader's completion, and its followers'."""
        key = self._keys.pop(completion.request_id, None)
        if key is None:
            return [completion]
        del self._leaders[key]
        self._begun.discard(completion.request_id)
        followers = self._followers.pop(completion.request_id, {})
        for request_id in followers:
            del self._leader_of[request_id]
        return [completion, *(_copy(completion, *pair) for pair in followers.values())]


def fold_key(request: Request) -> Hashable | None:
    """Equal for requests that have the same answer; None for one that is never folded."""
    if request.constraint is not None:
        return None
    if request.stop_checker is not None and not request.params.stop:
        return None  # a checker that the parameters do not describe
    tokens = blake2b(token_array(request.prompt_token_ids), digest_size=16)
    tokens.update(b"|")
    tokens.update(array("i", request.output_token_ids).tobytes())
    params, targets = request.params, request.targets
    if targets is not None:
        tokens.update(
            b"|%d|" % targets.first + targets.token_ids.tobytes() + targets.ends.tobytes()
        )
    if params.seed:  # part of the draws' key already
        params = replace(params, seed=0)
    return tokens.digest(), params, 0 if params.greedy else request.draw_key


def _copy(completion: Completion, request: Request, came: float) -> Completion:
    """The leader's answer for a request that came at its own time: nothing of it was computed."""
    timings = completion.timings
    moments = (timings.first_scheduled, timings.first_token, timings.finished)
    return replace(
        completion,
        request_id=request.request_id,
        timings=Timings(came, *(max(came, moment) if moment else 0.0 for moment in moments)),
        preemptions=0,
        cached_tokens=len(request.prompt_token_ids),
    )
