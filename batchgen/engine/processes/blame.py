"""Whether a request, or something outside, kills engine processes. The rules alone, no process.

Nothing tells a `kill -9` from outside, or the kernel's when memory is short, from a crash. So a
request is tried alone, and it is to blame once four such processes in succession died of it, each
but the first after a control: three times as long as the longest trial lasted, the process computed
a request that is known to be healthy, and lived. A death anywhere else, at a control, while loading
or with other requests in hand, shows that there is another killer, and all counts begin again.

A healthy request is hit in one trial after another only where a killer is frequent, and then it
hits the controls, which last longer, more often: of rows that a killer of constant rate keeps
hitting less than 1% are blamed in vain at the worst rate (tests/test_blame.py measures it). One
that strikes whatever is busy blames nobody, as controls die of it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

__all__ = ["TRIALS", "Blame"]

TRIALS = 4
_SHARED_DEATHS = 2
"""Deaths while it was computed, after which a request is computed alone."""
_CONTROL_RATIO = 3.0
_MOST_CONTROL_S = 300.0


class Blame:
    """What is known against each request."""

    def __init__(self) -> None:
        self._deaths: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()
        self._longest_s: dict[int, float] = {}

    def died_elsewhere(self, computed: Iterable[int] = ()) -> None:
        """A process is gone that tried no request alone; these it computed."""
        self._alone.clear()
        self._deaths.update(computed)

    def died_alone(self, request_id: int, seconds: float) -> bool:
        """A process is gone that computed this one alone, for so long. True: it is to blame."""
        self._alone[request_id] += 1
        self._longest_s[request_id] = max(seconds, self._longest_s.get(request_id, 0.0))
        return self._alone[request_id] >= TRIALS

    def is_suspect(self, request_id: int) -> bool:
        """Whether it is to be computed alone."""
        return self._deaths[request_id] >= _SHARED_DEATHS

    def control_s(self, request_id: int) -> float:
        """Seconds for which a process must live with healthy work before it gets this one."""
        return min(_MOST_CONTROL_S, _CONTROL_RATIO * self._longest_s.get(request_id, 0.0))

    def forget(self, request_id: int) -> None:
        """It finished, one way or the other."""
        self._deaths.pop(request_id, None)
        self._alone.pop(request_id, None)
        self._longest_s.pop(request_id, None)
