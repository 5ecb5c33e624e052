"""How far a run is: one bar on a terminal, plain lines in a log, both on stderr.

Workers write plain numbers into `Live`; the main thread reads them now and then. A number read a
moment early harms nothing, so there is no lock.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from batchgen.counts import counted
from batchgen.job.eta.lengths import Lengths
from batchgen.job.eta.moment import Progress, ReadRows
from batchgen.job.eta.time_left import SecondsLeft, TimeLeft

__all__ = ["Live", "Reporter", "make_reporter"]

LINES_EVERY_S = 30.0
BAR_EVERY_S = 0.25
_RATE_WINDOW_S = 20.0
_LOOK_EVERY_S, _LOOK_SHARE, _LOOK_AT_LEAST_S = 2.0, 0.01, 20.0
"""After so long, or this share of the time so far, the time left is worked out anew."""
_COLUMNS = 80


@dataclass(slots=True)
class Live:
    """Numbers of this run as the threads see them. `total_rows` is None until it can be told."""

    stage: str = "loading"
    reused: int = 0
    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    finished_tokens: int = 0
    generated_tokens: int = 0
    running: int = 0
    total_rows: int | None = None
    began: float = 0.0
    """When the engine was there, in monotonic seconds; 0.0 before."""
    ended: float = 0.0
    """When it had done its last row."""
    device: str = ""
    read: ReadRows = field(default_factory=ReadRows)
    """Rows that were read and are not finished."""
    lengths: Lengths = field(default_factory=Lengths)


class Reporter(Protocol):
    """Shows `Live` to somebody."""

    def update(self) -> None:
        """Called often; shows something only when it is time."""

    def close(self) -> None:
        """Show the last state."""


class _Silent:
    def update(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Rates:
    """Rates over the last seconds, and the time left by tokens."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._seen: list[tuple[float, int, int]] = [(time.monotonic(), 0, 0)]
        self._seconds_left: SecondsLeft | None = None
        self._left: TimeLeft | None = None
        self._looked = 0.0

    def describe(self) -> str:
        """`ETA 0:12, 12.0 rows/s, 345 tok/s, 64 live`: a narrow terminal cuts the end. No ETA
        before enough is known, and none once nothing is left."""
        live, now = self._live, time.monotonic()
        self._seen.append((now, live.rows, live.generated_tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.pop(0)
        then, rows, tokens = self._seen[0]
        elapsed = max(now - then, 1e-6)
        row_rate = (live.rows - rows) / elapsed
        token_rate = (live.generated_tokens - tokens) / elapsed
        text = f"{row_rate:,.1f} rows/s, {token_rate:,.0f} tok/s, {live.running:,} live"
        every_s = min(max(_LOOK_SHARE * (now - self._began), _LOOK_EVERY_S), _LOOK_AT_LEAST_S)
        if now - self._looked >= every_s:
            self._left, self._looked = self._time_left(now), now
        if self._left is None:
            return text
        return f"ETA {_span(self._left, now - self._looked)}, {text}"

    def finished(self) -> str:
        """Of the whole run, once it is over: its mean rates, as the summary tells them."""
        live = self._live
        elapsed = max((live.ended or time.monotonic()) - self._began, 1e-6)
        return f"{live.rows / elapsed:,.1f} rows/s, {live.finished_tokens / elapsed:,.0f} tok/s"

    @property
    def _began(self) -> float:
        return self._live.began or time.monotonic()

    def _time_left(self, now: float) -> TimeLeft | None:
        """Of this run: what earlier ones did, and loading, say nothing of its rate."""
        live = self._live
        if live.total_rows is None:
            return None
        if self._seconds_left is None:
            self._seconds_left = SecondsLeft(on_cpu=not live.device.startswith("cuda"))
        read = live.read
        rows_left = live.total_rows - live.reused - live.rows - len(read.begun)
        made = max(live.generated_tokens, live.finished_tokens)
        seen = Progress(now, live.rows, max(rows_left, 0), made, read, live.lengths)
        try:
            found = self._seconds_left.estimate(seen)
        except (ArithmeticError, ValueError, IndexError):  # what is only shown ends no job
            return None
        return found if found is None or math.isfinite(found.late) else None


class _Lines:
    """A line every 30 s without carriage returns, for logs."""

    def __init__(self, live: Live, stream: TextIO, every_s: float) -> None:
        self._live, self._stream, self._every_s = live, stream, every_s
        self._rates = _Rates(live)
        self._next = time.monotonic() + every_s
        self._next_look = 0.0

    def update(self) -> None:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_EVERY_S
            self._rates.describe()  # which learns from each look
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        live = self._live
        done = live.reused + live.rows
        share = f"{done:,} of " if live.total_rows else ""
        rows = counted(live.total_rows or done, "row")
        text = f"{share}{rows}, {self._rates.describe()}" if live.running or done else ""
        print(f"batchgen: {text or live.stage}", file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """One tqdm line for a person at a terminal."""

    def __init__(self, live: Live, stream: TextIO) -> None:
        from tqdm import tqdm

        self._live, self._rates = live, _Rates(live)
        self._next = 0.0
        has_size = _has_size(stream)
        self._bar = tqdm(
            file=stream,
            unit="row",
            dynamic_ncols=has_size,
            ncols=None if has_size else _COLUMNS,
            bar_format="{n_fmt} rows [{elapsed}{postfix}]",
        )

    def update(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + BAR_EVERY_S
        live, bar = self._live, self._bar
        if live.total_rows is not None and bar.total != live.total_rows:
            bar.total = live.total_rows
            bar.bar_format = (
                "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows [{elapsed}{postfix}]"
            )
        bar.n = live.reused + live.rows
        bar.set_postfix_str(self._rates.describe() if live.stage == "running" else live.stage)

    def close(self) -> None:
        self._next = 0.0
        self.update()
        if self._live.stage == "running":
            self._bar.set_postfix_str(self._rates.finished())
        self._bar.close()


def make_reporter(live: Live, mode: str, *, quiet: bool, stream: TextIO | None = None) -> Reporter:
    """`auto`: a bar on a terminal that can draw one, else lines; nothing with `-q`."""
    stream = stream or sys.stderr
    if quiet or mode == "none":
        return _Silent()
    if mode == "bar" or (mode == "auto" and _draws(stream)):
        return _Bar(live, stream)
    return _Lines(live, stream, LINES_EVERY_S)


def _draws(stream: TextIO) -> bool:
    """Whether this is a terminal that a bar can be drawn on."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _has_size(stream: TextIO) -> bool:
    """Whether the terminal says how wide it is: of one without a size (a container's, one behind
    `ssh` from a script) tqdm would make a bar of no column."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # no terminal; a stream without a file
        return True


def _span(left: TimeLeft, since: float) -> str:
    """`2:05`, or `1:40-3:10` where nobody can know better."""
    early, likely, late = (
        _clock(max(each - since, 0.0)) for each in (left.early, left.likely, left.late)
    )
    return likely if left.is_sure else f"{early}-{late}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
