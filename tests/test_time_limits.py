"""No test of this suite can wait for ever, nor its process when it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from echo_runs import environment

TESTS = """
import threading, time
import pytest
import time_limits

time_limits.MOST_SECONDS, time_limits._LEAVING_S = 0.3, 1

@pytest.fixture
def slow_to_end():
    yield
    threading.Event().wait()

def test_waits():
    threading.Event().wait()

def test_is_quick(slow_to_end):
    pass

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(50,), name="left behind").start()
"""


def test_a_test_that_waits_fails_where_it_stands_and_a_thread_left_ends_with_its_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "time_limits", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "test_it.py"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(Path(__file__).parent)),
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 1
    assert "1 failed, 2 passed, 1 error" in done.stdout
    assert done.stdout.count("it took longer than 0.3 s") >= 2
    assert "Timeout (0:00:01)!" in done.stderr
