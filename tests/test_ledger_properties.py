"""The ledger's invariants, under any interleaving that hypothesis can think of."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_tools import (
    Crash,
    die,
    expected_keys,
    finish,
    flip_a_bit,
    hooked,
    keys_of,
    left_of,
    open_ledger,
    parts_of,
    rows_of,
    temporary_files,
    truncate,
)

from batchgen.errors import OutputHeldError
from batchgen.job.ledger.ledger import Ledger

pytestmark = pytest.mark.usefixtures("no_fsync")


STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 7)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("crash"), st.integers(0, 12)),
    st.tuples(st.just("reopen"), st.just(0)),
    st.tuples(st.sampled_from(["truncate", "flip", "power"]), st.integers(0, 1000)),
)


class Job:
    """A job driven at random, and what must be true of it."""

    def __init__(self, folder: Path, num_rows: int, every: int, seed: int) -> None:
        self.folder = folder
        self.num_rows = num_rows
        self.every = every
        self.random = random.Random(seed)
        self.ledger: Ledger | None = None
        self.must_be_done: set[int] = set()
        self.appended: list[int] = []
        self.countdown: int | None = None
        self.tear = False

    def hook(self, point: str, path: Path | None) -> None:
        if self.countdown is None:
            return
        self.countdown -= 1
        if self.countdown < 0:
            if self.tear and point == "part.renamed" and path is not None:
                truncate(path)
            raise Crash(point)

    def step(self, name: str, number: int) -> None:
        if name in ("crash", "power"):
            self.countdown, self.tear = number % 13, name == "power"
        elif name in ("truncate", "flip"):
            self.damage(name, number)
        else:
            try:
                self.work(name, number)
            except Crash:
                self.end()

    def end(self) -> None:
        """The process is gone; so are rows that no flush made durable."""
        if self.ledger is not None:
            die(self.ledger)
        self.ledger, self.appended, self.countdown = None, [], None

    def work(self, name: str, number: int) -> None:
        if name == "reopen" and self.ledger is not None:
            self.ledger.close()
            self.must_be_done |= set(self.appended)
            self.end()
        ledger = self.opened()
        if name == "append":
            left = left_of(ledger, self.num_rows)
            indices = self.random.sample(left, min(number, len(left)))
            ledger.begin(sorted(indices))
            ledger.append(rows_of(indices))
            self.appended += indices
        elif name == "flush":
            ledger.flush()
            self.must_be_done |= set(self.appended)

    def opened(self) -> Ledger:
        if self.ledger is None:
            self.ledger = open_ledger(self.folder, checkpoint_every=self.every)
            assert all(self.ledger.is_done(i) for i in self.must_be_done), "a done row was lost"
        return self.ledger

    def damage(self, how: str, number: int) -> None:
        """A part rots on disk between two runs: its rows are no longer promised."""
        if self.ledger is not None:
            self.end()
        parts = parts_of(self.folder)
        if parts:
            path = parts[number % len(parts)]
            truncate(path) if how == "truncate" else flip_a_bit(path, number / 1001)
            self.must_be_done = set()

    def finish(self) -> None:
        self.countdown = None
        ledger = self.opened()
        left = left_of(ledger, self.num_rows)
        self.random.shuffle(left)
        ledger.append(rows_of(left))
        report = ledger.finalize(self.num_rows)
        ledger.close()
        assert report.rows == self.num_rows


@settings(max_examples=50, deadline=None)
@given(
    num_rows=st.integers(1, 40),
    every=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    steps=st.lists(STEP, max_size=25),
)
def test_every_row_is_in_the_output_exactly_once_whatever_happens(
    num_rows: int, every: int, seed: int, steps: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(folder, num_rows, every, seed)
        with hooked(job.hook):
            for step in steps:
                job.step(*step)
            job.finish()
        assert keys_of(folder / "out.parquet") == expected_keys(num_rows)
        assert temporary_files(folder) == []
        assert parts_of(folder) == []
        with open_ledger(folder) as again:
            assert again.finished is not None


@settings(max_examples=40, deadline=None)
@given(crash_at=st.integers(0, 30), num_rows=st.integers(1, 20))
def test_a_crash_at_any_boundary_of_the_end_leaves_a_whole_output_or_none(
    crash_at: int, num_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(folder, num_rows, 4, 0)
        with open_ledger(folder) as ledger:
            ledger.append(rows_of(range(num_rows)))
        job.must_be_done = set(range(num_rows))
        job.countdown = crash_at
        with hooked(job.hook):
            try:
                ledger = job.opened()
                ledger.finalize(num_rows)
            except Crash:
                job.end()
            if (folder / "out.parquet").exists():
                assert keys_of(folder / "out.parquet") == expected_keys(num_rows)
            if job.ledger is not None:
                job.ledger.close()
            job.ledger = job.countdown = None
            with open_ledger(folder) as again:
                if again.finished is None:
                    assert again.num_done == num_rows, "nothing may be computed again"
                    again.finalize(num_rows)
        assert keys_of(folder / "out.parquet") == expected_keys(num_rows)
        assert temporary_files(folder) == []
        assert parts_of(folder) == []


TWO_WRITERS = st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 6)), max_size=20)


@settings(max_examples=40, deadline=None)
@given(steps=TWO_WRITERS, seed=st.integers(0, 999), paused=st.booleans())
def test_two_processes_that_both_believe_they_own_the_output_cannot_double_a_row(
    steps: list[tuple[str, int]], seed: int, paused: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        patch.setattr(fcntl, "flock", no_flock)
        folder = Path(name)
        chosen = random.Random(seed)
        writers = {"A": open_ledger(folder, checkpoint_every=2)}
        writers["A"].append(rows_of([0, 1, 2]))
        move_owner_elsewhere(folder)
        hook = Rival(folder, writers) if paused else None
        with hooked(hook or (lambda point, path: None)):
            for who, count in [("A", 3), *steps]:
                append_some(writers, who, count, chosen)
        owner = writers.get("B") or open_ledger(folder)
        finish(owner, 30)
        assert keys_of(folder / "out.parquet") == expected_keys(30)
        with pytest.raises(OutputHeldError, match="lost"):
            writers["A"].append(rows_of(range(30, 40)))
        assert keys_of(folder / "out.parquet") == expected_keys(30)
        for ledger in (*writers.values(), owner):
            die(ledger)


class Rival:
    """While A stands between its last check and its rename, B takes the output over."""

    def __init__(self, folder: Path, writers: dict[str, Ledger]) -> None:
        self.folder = folder
        self.writers = writers

    def __call__(self, point: str, path: Path | None) -> None:
        if point == "part.rename" and "B" not in self.writers:
            self.writers["B"] = self.writers["A"]  # no second rival while this one opens
            self.writers["B"] = open_ledger(self.folder, checkpoint_every=2)


def append_some(writers: dict[str, Ledger], who: str, count: int, chosen: random.Random) -> None:
    ledger = writers.get(who)
    if ledger is None:
        return
    left = left_of(ledger, 30)
    try:
        ledger.append(rows_of(chosen.sample(left, min(count, len(left)))))
        ledger.flush()
    except OutputHeldError:
        assert who == "A"


def move_owner_elsewhere(folder: Path) -> None:
    """As the owner looks from another host to which its heartbeats no longer come."""
    claim = folder / "out.parquet.ckpt" / "owners" / "1.json"
    claim.write_text(json.dumps(json.loads(claim.read_text()) | {"host": "elsewhere"}))
    os.utime(claim, (1, 1))


def no_flock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "no locks available")
