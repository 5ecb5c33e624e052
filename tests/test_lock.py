"""One writer: who is refused, who takes over, and who loses."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from batchgen.errors import OutputHeldError
from batchgen.job.locking.lock import OutputLock, current_owner
from batchgen.job.locking.owner import Liveness, liveness, this_process

HOLD = """
import sys, time
from pathlib import Path
from batchgen.job.locking.lock import OutputLock
lock = OutputLock(Path(sys.argv[1]), Path("out.parquet"), "first-run")
lock.acquire()
if sys.argv[2] == "fork":
    import os
    if os.fork() == 0:
        time.sleep(30)
print("held", flush=True)
time.sleep(float(sys.argv[3]))
lock.release()
"""


def hold(folder: Path, how: str = "alone", seconds: float = 60) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), how, str(seconds)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def make_lock(folder: Path) -> OutputLock:
    return OutputLock(folder, Path("out.parquet"), "second-run")


def edit_claim(folder: Path, attempt: int, **changes: object) -> Path:
    claim = folder / "owners" / f"{attempt}.json"
    claim.write_text(json.dumps(json.loads(claim.read_text()) | changes))
    return claim


@contextmanager
def full_disk() -> Iterator[None]:
    """Files can be created and emptied, and nothing be written to them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_release_cut_short_leaves_the_claim_whole_and_the_output_free(tmp_path: Path) -> None:
    lock = make_lock(tmp_path)
    lock.acquire()
    with full_disk():
        lock.release()
    owner = current_owner(tmp_path)
    assert owner is not None
    assert owner.run_id == "second-run"
    assert os.listdir(tmp_path / "owners") == ["1.json"]
    started = time.monotonic()
    make_lock(tmp_path).acquire("wait", timeout=5)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("mode", ["fail", "skip"])
def test_a_held_output_is_refused_and_its_owner_named(tmp_path: Path, mode: str) -> None:
    child = hold(tmp_path)
    try:
        with pytest.raises(OutputHeldError, match=rf"process {child.pid} on .*first-run") as held:
            make_lock(tmp_path).acquire(mode)
        assert held.value.exit_code == 5
    finally:
        child.kill()
        child.communicate(timeout=60)


def test_waiting_ends_when_the_owner_releases(tmp_path: Path) -> None:
    child = hold(tmp_path, seconds=0.5)
    lock = make_lock(tmp_path)
    lock.acquire("wait", timeout=20)
    assert lock.attempt == 2
    lock.release()
    child.communicate(timeout=60)


def test_a_killed_owner_is_succeeded_at_once(tmp_path: Path) -> None:
    child = hold(tmp_path)
    child.kill()
    child.communicate(timeout=60)
    lock = make_lock(tmp_path)
    lock.acquire()
    assert lock.attempt == 2
    lock.release()


def test_an_orphan_of_the_owner_that_inherited_the_lock_does_not_hold_it(tmp_path: Path) -> None:
    child = hold(tmp_path, "fork")
    orphans = subprocess.run(
        ["pgrep", "-P", str(child.pid)], capture_output=True, text=True, timeout=120
    )
    child.kill()
    child.wait(60)
    assert child.stdout is not None
    child.stdout.close()
    lock = make_lock(tmp_path)
    lock.acquire()
    lock.check()
    lock.release()
    for pid in orphans.stdout.split():
        os.kill(int(pid), 9)


def test_a_fresh_heartbeat_from_another_host_is_respected(tmp_path: Path) -> None:
    lock = make_lock(tmp_path)
    lock.acquire()
    lock._unlock()  # as flock looks from a host that it does not reach
    edit_claim(tmp_path, 1, host="elsewhere")
    with pytest.raises(OutputHeldError, match="elsewhere"):
        make_lock(tmp_path).acquire()


@pytest.mark.parametrize("beat", [-86_400, 86_400], ids=["long ago", "before the clock went back"])
def test_a_silent_owner_on_another_host_loses_and_finds_out(tmp_path: Path, beat: int) -> None:
    first, second = make_lock(tmp_path), make_lock(tmp_path)
    first.acquire()
    first._unlock()
    os.utime(edit_claim(tmp_path, 1, host="elsewhere"), (time.time() + beat,) * 2)
    second.acquire()
    second.check()
    with pytest.raises(OutputHeldError, match="lost"):
        first.check()
    first.release()
    assert not current_owner(tmp_path).released  # type: ignore[union-attr]
    second.release()
    assert current_owner(tmp_path).released  # type: ignore[union-attr]


def test_claims_are_unique_under_a_race(tmp_path: Path) -> None:
    locks = [make_lock(tmp_path) for _ in range(8)]
    (tmp_path / "owners").mkdir()
    barrier = threading.Barrier(len(locks))

    def claim(lock: OutputLock) -> None:
        barrier.wait(60)
        lock._claim()

    threads = [threading.Thread(target=claim, args=(lock,), daemon=True) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    attempts = sorted(lock.attempt for lock in locks)
    assert len(set(attempts)) == len(locks)
    assert [lock.attempt for lock in locks if owns(lock)] == attempts[-1:]


def owns(lock: OutputLock) -> bool:
    try:
        lock.check()
    except OutputHeldError:
        return False
    return True


def test_a_removed_checkpoint_folder_stops_the_run(tmp_path: Path) -> None:
    lock = make_lock(tmp_path)
    lock.acquire()
    (tmp_path / "owners" / "1.json").unlink()
    with pytest.raises(OutputHeldError, match="removed the checkpoint folder"):
        lock.check()
    lock.release()


def test_a_process_id_given_to_another_process_is_not_the_owner() -> None:
    owner = this_process("r", 1)
    assert liveness(owner) is Liveness.ALIVE
    assert liveness(replace(owner, start_ticks=owner.start_ticks + 1)) is Liveness.DEAD
    assert liveness(replace(owner, machine="other-boot/ns")) is Liveness.DEAD


def test_old_claims_do_not_pile_up(tmp_path: Path) -> None:
    for _ in range(6):
        lock = make_lock(tmp_path)
        lock.acquire()
        lock.release()
    assert len(list((tmp_path / "owners").iterdir())) == 2
    assert lock_attempt(tmp_path) == 6


def lock_attempt(folder: Path) -> int:
    owner = current_owner(folder)
    assert owner is not None
    return owner.attempt


def test_the_heartbeat_touches_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.job.locking.lock.HEARTBEAT_SECONDS", 0.02)
    lock = make_lock(tmp_path)
    lock.acquire()
    claim = tmp_path / "owners" / "1.json"
    os.utime(claim, (1, 1))
    deadline = time.monotonic() + 10
    while claim.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert claim.stat().st_mtime > 2
    lock.release()
