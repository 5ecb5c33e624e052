"""A real batchgen process that a selftest starts, watches, signals and kills."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from batchgen.errors import BatchgenError
from batchgen.job.stopping.signals import POLITE_SIGNALS

__all__ = ["Child", "SelftestError", "unready_codes"]

_POLL_S = 0.01
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SHOWN_BYTES, _STACKS_BYTES = 2000, 16_000
_DUMP_S = 10.0


class SelftestError(BatchgenError):
    """The selftest found what must not be; exit code 1."""


class Child:
    """`python -m batchgen ARGS` with stdout and stderr in files; killed if the block is left."""

    def __init__(self, args: Sequence[object], log: Path, fault: str = "") -> None:
        self._log = log
        self._signals: list[str] = []
        settings = {k: v for k, v in os.environ.items() if not k.startswith("BATCHGEN_")}
        settings["PYTHONFAULTHANDLER"] = "1"  # shows all stacks on SIGABRT, from its first moment
        streams = log.with_suffix(".out").open("wb"), log.open("wb")
        with streams[0] as stdout, streams[1] as stderr, _obedient_children():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "batchgen", *map(str, args)],
                env=settings | ({"BATCHGEN_FAULT": fault} if fault else {}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def stderr(self) -> str:
        """The end of what it said."""
        return self._said(_SHOWN_BYTES)

    @property
    def stdout(self) -> str:
        """What it printed."""
        return self._log.with_suffix(".out").read_text(errors="replace")

    def wait(self, timeout: float = 3600) -> int:
        """Its exit code; SelftestError when it hangs, with the stacks of its threads."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._abort()
            after = f" after {' and '.join(self._signals)}" if self._signals else ""
            raise SelftestError(
                f"a run hung for {timeout:g} s{after} and was killed; it said:\n"
                + self._said(_STACKS_BYTES)
            ) from None

    def _abort(self) -> None:
        """End it in a way that shows where it was."""
        self._process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DUMP_S)
        self.kill()

    def _said(self, most_bytes: int) -> str:
        return self._log.read_bytes()[-most_bytes:].decode(errors="replace")

    def wait_until(self, reached: Callable[[], bool], timeout: float = 600) -> bool:
        """Wait for a moment; False if the process ended, or the time was over, before it."""
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            if reached():
                return True
            time.sleep(_POLL_S)
        return False

    def kill(self) -> bool:
        """SIGKILL; whether it died of it (and had not ended by itself before)."""
        self._process.kill()
        return self._process.wait() == -signal.SIGKILL

    def signal(self, signum: signal.Signals) -> None:
        """Send a polite signal."""
        self._signals.append(signum.name)
        self._process.send_signal(signum)

    def memory(self) -> int:
        """Resident bytes now; 0 once it ended."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()
            return int(pages[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def peak_memory(self) -> int:
        """The most resident bytes so far; 0 once it ended."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(peak[1]) * 1024 if peak else 0

    def descriptors(self) -> int:
        """Open file descriptors now; 0 once it ended."""
        try:
            return len(os.listdir(f"/proc/{self._process.pid}/fd"))
        except OSError:
            return 0

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.running:
            self.kill()


def unready_codes(signum: signal.Signals) -> tuple[int, ...]:
    """How a process ends whose handlers do not stand yet; Python's own, for SIGINT, come first."""
    return (-signum, 1, 130) if signum == signal.SIGINT else (-signum,)


@contextmanager
def _obedient_children() -> Iterator[None]:
    """Children inherit what is ignored: SIGHUP under nohup, SIGINT behind `&` in a script. They are
    to obey; what is handled here, by a function that does nothing, has its default in them."""
    ignored = [signum for signum in POLITE_SIGNALS if signal.getsignal(signum) == signal.SIG_IGN]
    for signum in ignored:
        signal.signal(signum, _do_nothing)
    try:
        yield
    finally:
        for signum in ignored:
            signal.signal(signum, signal.SIG_IGN)


def _do_nothing(signum: int, _: FrameType | None) -> None:
    pass
