"""kill -9 of a real process at every kind of moment, and what the next one finds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import warm_process
from echo_runs import environment
from ledger_tools import expected_keys, keys_of, open_ledger, parts_of, temporary_files

NUM_ROWS = 60
CHILD = """
import sys, time
from pathlib import Path
from ledger_tools import left_of, open_ledger, rows_of
from batchgen.job.input_digest import InputCheckpoint
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
with open_ledger(folder, background=True, checkpoint_every=6) as ledger:
    if ledger.finished is None:
        print("reused", ledger.num_done, flush=True)
        left = left_of(ledger, 60)
        for start in range(0, len(left), 4):
            batch = left[start:start + 4]
            ledger.begin(batch)
            ledger.checkpoint_input(InputCheckpoint(batch[-1] + 1, "digest"))
            ledger.save_inflight({(batch[0], 0): [1, 2, 3]})
            time.sleep(pause)
            ledger.append(rows_of(batch[::-1]))
        ledger.finalize(60)
"""


def start(folder: Path, fault: str = "", pause: float = 0.0) -> subprocess.Popen[str]:
    words = ["-c", CHILD, str(folder), str(pause)]
    streams = {"stdout": subprocess.PIPE, "text": True}
    env = environment(BATCHGEN_FAULT=fault)
    return warm_process.start(words, env=env, cwd=Path(__file__).parent, **streams)


def finish(folder: Path) -> None:
    """One more run without a fault: the output is whole and nothing else is left."""
    child = start(folder)
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert keys_of(folder / "out.parquet") == expected_keys(NUM_ROWS)
    assert temporary_files(folder) == []
    assert parts_of(folder) == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("kill:at=part.write,nth=2", -signal.SIGKILL),
        ("kill:at=part.rename,nth=3", -signal.SIGKILL),
        ("tear:at=part.renamed,nth=3;kill:at=part.renamed,nth=3", -signal.SIGKILL),
        ("flip:at=part.renamed,nth=2;kill:at=part.write,nth=5", -signal.SIGKILL),
        ("kill:at=journal.write,nth=4", -signal.SIGKILL),
        ("kill:at=manifest.rename,nth=5", -signal.SIGKILL),
        ("kill:at=inflight.renamed,nth=2", -signal.SIGKILL),
        ("kill:at=final.write", -signal.SIGKILL),
        ("kill:at=final.rename", -signal.SIGKILL),
        ("kill:at=final.renamed", -signal.SIGKILL),
        ("full:at=part.write,nth=3", 1),
        ("full:at=final.write", 1),
    ],
)
def test_a_run_broken_at_any_point_is_continued_to_the_same_output(
    tmp_path: Path, fault: str, code: int
) -> None:
    child = start(tmp_path, fault)
    child.communicate(timeout=60)
    assert child.returncode == code
    finish(tmp_path)


def test_kills_at_random_moments_lose_no_committed_row(tmp_path: Path) -> None:
    chosen = random.Random(7)
    reused = [0]
    for _ in range(6):
        child = start(tmp_path, pause=0.02)
        assert child.stdout is not None
        if line := child.stdout.readline():
            reused.append(int(line.split()[1]))
        time.sleep(chosen.uniform(0.0, 0.15))
        child.kill()
        child.communicate(timeout=60)
    assert reused == sorted(reused), "a later run found fewer rows than an earlier one"
    assert len(reused) > 2
    finish(tmp_path)


def test_a_kill_costs_no_more_rows_than_the_checkpoint_interval(tmp_path: Path) -> None:
    child = start(tmp_path, "kill:at=journal.write,nth=9")
    child.communicate(timeout=60)
    with open_ledger(tmp_path) as ledger:
        # Before the ninth batch of 4 begins 32 rows were appended (2 samples each on average);
        # not durable are at most 6 lines and one batch.
        assert ledger.num_done >= 32 - 6 - 4
        assert ledger.journal.attempt(59) == 1
        assert ledger.journal.inflight_tokens(28, 0) in ([1, 2, 3], [])


def test_a_zombie_owner_is_dead(tmp_path: Path) -> None:
    child = start(tmp_path, pause=0.2)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    state = ""
    while state != "Z":  # nobody has waited for it yet
        state = Path(f"/proc/{child.pid}/stat").read_text().rsplit(") ", 1)[1][0]
        time.sleep(0.01)
    with open_ledger(tmp_path) as ledger:
        assert not ledger.finished
    child.communicate(timeout=60)
