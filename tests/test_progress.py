"""Progress: one bar for a person, plain lines for a log, on stderr, and never on stdout."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from echo_runs import begin, environment, prompts, write_rows

from batchgen.job.eta.time_left import TimeLeft
from batchgen.job.flow import progress
from batchgen.job.flow.progress import Live, make_reporter


class Clock:
    """Stands in for the `time` module: moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_plain_line_every_thirty_seconds(clock: Clock) -> None:
    stream, live = io.StringIO(), Live(stage="running", total_rows=1000)
    reporter = make_reporter(live, "auto", quiet=False, stream=stream)
    for second in range(1, 62):
        clock.now = 1000 + second
        live.rows, live.running = second * 5, 8
        live.generated_tokens = live.finished_tokens = second * 50
        for _ in range(5):
            live.lengths.add(10, 256)
        reporter.update()
    reporter.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "\r" not in stream.getvalue()
    shown = re.fullmatch(
        r"batchgen: 150 of 1,000 rows, ETA (\d):(\d\d), 5\.\d rows/s, 5\d tok/s, 8 live", lines[0]
    )
    assert shown, lines
    assert 150 <= 60 * int(shown[1]) + int(shown[2]) <= 190  # 850 rows, five a second


def test_the_time_left_leaves_out_rows_of_earlier_runs(clock: Clock) -> None:
    live = Live(stage="running", total_rows=200, reused=100)
    rates = progress._Rates(live)
    for _ in range(10):
        clock.now += 1
        live.rows += 1
        live.lengths.add(100, 256)
        live.finished_tokens, live.generated_tokens = live.rows * 100, live.rows * 100
        shown = rates.describe()
    assert re.match(r"ETA 1:(2|3)\d, ", shown), shown  # 90 rows, one a second


def test_the_finished_bar_shows_no_time_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, live = io.StringIO(), Live(stage="running", total_rows=10, rows=10, running=1)
    live.began, live.finished_tokens = clock.now, 1000
    reporter = make_reporter(live, "bar", quiet=False, stream=stream)
    clock.now += 10
    reporter.close()
    last = stream.getvalue().rstrip().rpartition("\r")[2]
    assert "10/10 rows" in last
    assert "1.0 rows/s, 100 tok/s" in last
    assert "ETA" not in last
    assert "live" not in last


@pytest.mark.parametrize(("mode", "quiet"), [("none", False), ("bar", True), ("lines", True)])
def test_quiet_and_none_show_nothing(clock: Clock, mode: str, quiet: bool) -> None:
    stream = io.StringIO()
    reporter = make_reporter(Live(rows=5), mode, quiet=quiet, stream=stream)
    clock.now += 100
    reporter.update()
    reporter.close()
    assert stream.getvalue() == ""


def terminal_run(tmp_path: Path, **extra: str) -> tuple[str, str]:
    """(stdout, what a terminal on stderr shows) of a short slow run."""
    source = write_rows(tmp_path / "in.jsonl", prompts(60))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    fault = "slow:at=engine.step,seconds=0.02,rows=1"
    process = begin(
        *("run", "-i", source, "-o", tmp_path / "o.parquet", "--engine", "echo"),
        env=environment(BATCHGEN_FAULT=fault, **extra),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0, shown.decode()
    return stdout, shown.decode()


def test_a_terminal_gets_a_bar_on_stderr_alone(tmp_path: Path) -> None:
    stdout, shown = terminal_run(tmp_path, TERM="xterm")
    assert "60/60 rows" in shown
    assert "tok/s" in shown
    assert "\r" in shown
    assert len(stdout.splitlines()) == 1
    assert "\x1b[3" not in shown


def test_a_dumb_terminal_gets_lines(tmp_path: Path) -> None:
    _, shown = terminal_run(tmp_path, TERM="dumb")
    assert "rows [" not in shown


def test_a_terminal_of_no_size_gets_a_bar_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()  # of 0 rows and 0 columns until somebody sets more
    with os.fdopen(theirs, "w") as stream:
        live = Live(stage="running", total_rows=10, rows=5)
        reporter = make_reporter(live, "auto", quiet=False, stream=stream)
        reporter.update()
        reporter.close()
        shown = ""
        while "5/10 rows" not in shown and select.select([ours], [], [], 5)[0]:
            shown += os.read(ours, 4096).decode()
    os.close(ours)
    assert "5/10 rows" in shown
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= 80


def test_a_time_that_nobody_can_know_is_a_span() -> None:
    assert progress._span(TimeLeft(100, 120, 130), 0) == "2:00"
    assert progress._span(TimeLeft(100, 120, 4000), 10) == "1:30-1:06:30"
