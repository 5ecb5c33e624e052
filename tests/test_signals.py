"""Signals: the first stops a run politely, the second at once; both leave it resumable."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from echo_runs import batchgen, begin, prompts, stable, write_rows

from batchgen.errors import StoppedError
from batchgen.job.locking.lock import OutputLock
from batchgen.job.stopping.signals import Stop

SLOW = "slow:at=engine.step,seconds=0.02,rows=2"
STUCK = "slow:at=engine.step,seconds=60"


def start(source: Path, out: Path, fault: str, *more: object) -> subprocess.Popen[str]:
    """A run that holds its output and is at work."""
    process = begin("run", "-i", source, "-o", out, "--engine", "echo", *more, fault=fault)
    wait_for(process, Path(f"{out}.ckpt"), "manifest.json")
    return process


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Until a file with content is there."""
    while not any(path.stat().st_size for path in folder.glob(pattern)):
        assert process.poll() is None, process.communicate(timeout=60)
        time.sleep(0.02)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", prompts(200))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"])
def test_the_first_signal_saves_what_is_finished_and_ends_in_75(
    tmp_path: Path, source: Path, name: str
) -> None:
    out = tmp_path / "out.parquet"
    process = start(source, out, SLOW)
    wait_for(process, tmp_path / "out.parquet.ckpt", "begun-*.log")
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 75, stderr
    assert name in stderr
    assert "again to continue" in stderr
    assert '"exit_code": 75' in stdout
    assert not out.exists()
    done = int(stdout.split('"rows": ')[1].split(",")[0])
    assert 0 < done < 200
    again = batchgen("run", "-i", source, "-o", out, "--engine", "echo")
    assert f'"reused": {done}' in again.stdout
    whole = tmp_path / "whole.parquet"
    batchgen("run", "-i", source, "-o", whole, "--engine", "echo")
    assert stable(out).equals(stable(whole))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_second_signal_ends_at_once(tmp_path: Path, source: Path, name: str) -> None:
    out = tmp_path / "out.parquet"
    process = start(source, out, STUCK)
    time.sleep(0.5)
    number = getattr(signal, name)
    process.send_signal(number)
    time.sleep(0.01)
    process.send_signal(number)  # the group's, and a shell's that hands it on: one request
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=5)
    assert process.returncode == 128 + number
    assert batchgen("run", "-i", source, "-o", out, "--engine", "echo").returncode == 0


def test_a_signal_while_nothing_is_begun_raises_where_it_comes() -> None:
    def start(stop: Stop, swallowed: type[Exception]) -> None:
        with stop.at_once("it started"):
            with suppress(swallowed):
                stop.handle(signal.SIGTERM, None)
            came_here.append(swallowed)

    came_here: list[type[Exception]] = []
    for swallowed in (KeyError, StoppedError):
        with pytest.raises(StoppedError, match="SIGTERM while it started"):
            start(Stop(), swallowed)
    assert came_here == [StoppedError]
    stop = Stop()
    with stop.at_once("it started"):
        pass
    stop.handle(signal.SIGTERM, None)  # from here on work has to be saved
    assert stop.requested


INTERRUPT_IN_A_CALLBACK = """
import os, signal, sys, weakref

class Thing:
    pass

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "batchgen.cli.run":
            thing = Thing()
            ref = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del thing

sys.meta_path.insert(0, Finder)
"""


def test_an_interrupt_while_the_command_is_imported_is_never_lost(
    tmp_path: Path, source: Path
) -> None:
    """Python ignores one that finds it in a callback, as its import system has them."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_IN_A_CALLBACK)
    out = tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo"]
    result = batchgen(*args, PYTHONPATH=str(tmp_path))
    assert result.returncode == -signal.SIGINT, result.stderr
    assert not out.exists()


def test_a_signal_while_the_model_loads_ends_the_run_without_waiting_for_it(
    tmp_path: Path, source: Path
) -> None:
    out = tmp_path / "out.parquet"
    process = start(source, out, "slow:at=engine.load,seconds=60")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 75, stderr


def test_a_signal_ends_the_waiting_at_the_door_of_a_job(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.parquet"
    door = OutputLock(Path(f"{out}.ckpt"), out, "somebody else", "-door")
    door.acquire()
    ways = ([], ["--shard", "0/2"], ["--lock", "wait"], ["--shard", "0/2", "--incremental"])
    waiting = [begin("run", "-i", source, "-o", out, "--engine", "echo", *more) for more in ways]
    time.sleep(1.5)
    for process in waiting:
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=3)
        assert process.returncode == 75, stderr
        assert "stopped by SIGTERM while" in stderr
    door.release()
