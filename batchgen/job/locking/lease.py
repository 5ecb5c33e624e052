"""Work on a disk, output in a store: the lock of the work, and a claim beside the output.

Machines with checkpoint folders of their own do not see each other's locks. So a run of all rows
also claims the output where it will appear; the claim is made, renewed and lost as any other. It is
looked at every few seconds, not for each part: what decides in the end is that the output is
replaced only in the version that was known.
"""

from __future__ import annotations

import time

from batchgen.job.locking.lock import OutputLock
from batchgen.job.stopping.stop_check import StopCheck, never
from batchgen.job.stores.places import Place

__all__ = ["LeasedLock"]

_CHECK_SECONDS = 10.0


class LeasedLock(OutputLock):
    """A lock in a local `folder`, and one named `-lease` in `there`, the store's."""

    def __init__(self, folder: Place, there: Place, out: Place | str, run_id: str) -> None:
        super().__init__(folder, out, run_id)
        self._lease = OutputLock(there, out, run_id, "-lease")
        self._looked = 0.0

    def acquire(
        self,
        mode: str = "fail",
        timeout: float | None = None,
        poll: float = 0.5,
        check_stop: StopCheck = never,
    ) -> None:
        """Both or none."""
        super().acquire(mode, timeout, poll, check_stop)
        try:
            self._lease.acquire(mode, timeout, poll, check_stop)
        except BaseException:
            super().release()
            raise
        self._looked = time.monotonic()

    def check(self) -> None:
        """Raise OutputHeldError unless this process has both, as far as it looked."""
        super().check()
        if time.monotonic() - self._looked > _CHECK_SECONDS:
            self._lease.check()
            self._looked = time.monotonic()

    def release(self) -> None:
        """Give both up."""
        self._lease.release()
        super().release()
