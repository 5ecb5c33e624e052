"""Shards of one job: they share its folder, never its rows, and any number of them finishes it."""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import ledger_tools as tools
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.cli.merge import merge as merge_command
from batchgen.errors import (
    FingerprintMismatchError,
    InputUnreadableError,
    OutputHeldError,
    UsageError,
)
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.ledger.ledger import Ledger
from batchgen.job.ledger.missing_rows import MissingShardsError
from batchgen.job.shard import Shard, parse_shard
from batchgen.job.verbs.merge_job import merge_output
from batchgen.job.verbs.shard_environment import chosen_shard

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "3",
}
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "3"}
RANKS = {"RANK": "1", "WORLD_SIZE": "2"}


pytestmark = pytest.mark.usefixtures("no_fsync")


def shard_ledger(folder: Path, index: int, count: int, **changes: Any) -> Ledger:
    return tools.open_ledger(folder, shard=Shard(index, count), **changes)


def rows_left(ledger: Ledger, shard: Shard, total: int) -> list[int]:
    return [i for i in range(total) if shard.has(i) and not ledger.is_done(i)]


def run_shard(folder: Path, index: int, count: int, total: int, **changes: Any) -> int:
    """One shard from begin to end; how many rows it computed."""
    with shard_ledger(folder, index, count, **changes) as ledger:
        if ledger.finished is not None:
            return 0
        left = rows_left(ledger, Shard(index, count), total)
        ledger.begin(left)
        ledger.append(tools.rows_of(left))
        ledger.checkpoint_input(InputCheckpoint(total, "digest"))
        ledger.finalize(total)
        return len(left)


def merged(folder: Path, **options: Any) -> Any:
    return merge_output(folder / "out.parquet", folder / "out.parquet.ckpt", **options)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 60))
def test_shards_share_the_rows_out_and_know_whom_they_overlap(a: int, b: int, total: int) -> None:
    ones, others = [Shard(i, a) for i in range(a)], [Shard(i, b) for i in range(b)]
    assert sum(shard.num_rows(total) for shard in ones) == total
    assert all(s.num_rows(total) == sum(map(s.has, range(total))) for s in ones)
    for one in ones:
        for other in others:
            common = any(one.has(i) and other.has(i) for i in range(a * b))
            assert one.overlaps(other) == common
        assert Shard.of_label(one.label) == one == parse_shard(str(one))


@pytest.mark.parametrize("text", ["", "4/4", "-1/4", "1", "1/4/2", "a/b", "1/0", "1 of 4"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not I/N with I from 0 to N - 1"):
        chosen_shard(text, {})


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, None),
        (None, ARRAY, "2/4"),
        ("1/3", ARRAY, "1/3"),
        ("none", ARRAY, None),
        (None, STEP, "1/3"),
        (None, STEP | {"SLURM_STEP_NUM_TASKS": "2"}, "1/2"),
        (None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, None),
        (None, RANKS, "1/2"),
        (None, RANKS | STEP, "1/3"),
        (None, RANKS | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        (None, {"RANK": "0", "WORLD_SIZE": "1"}, None),
        (None, {"WORLD_SIZE": "8"}, None),
        ("1/3", {"SLURM_ARRAY_TASK_ID": "5"}, "1/3"),
    ],
)
def test_the_environment_names_the_shard_where_it_is_safe(
    given: str | None, environment: dict[str, str], expected: str | None
) -> None:
    found = chosen_shard(given, environment)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize(
    "environment",
    [
        ARRAY | {"SLURM_ARRAY_TASK_COUNT": "2"},
        ARRAY | {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "4"},
        ARRAY | {"SLURM_ARRAY_TASK_COUNT": ""},
        {"SLURM_ARRAY_TASK_ID": "3"},
        ARRAY | STEP,
        STEP | {"SLURM_HET_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "x", "WORLD_SIZE": "2"},
    ],
)
def test_an_unsafe_environment_is_refused_with_the_flag_to_write(
    environment: dict[str, str],
) -> None:
    with pytest.raises(UsageError) as refused:
        chosen_shard(None, environment)
    assert "write --shard" in str(refused.value.hint)


def test_four_shards_merge_to_the_output_and_leave_nothing(tmp_path: Path) -> None:
    assert [run_shard(tmp_path, i, 4, 30) for i in (2, 0, 3, 1)] == [7, 8, 7, 8]
    assert not (tmp_path / "out.parquet").exists()
    assert merged(tmp_path).rows == 30
    assert tools.keys_of(tmp_path / "out.parquet") == tools.expected_keys(30)
    folder = tmp_path / "out.parquet.ckpt"
    assert tools.temporary_files(tmp_path) == tools.parts_of(tmp_path) == []
    assert not (folder / "shards").exists()
    assert merged(tmp_path).rows == 30
    assert run_shard(tmp_path, 1, 4, 30) == 0
    with tools.open_ledger(tmp_path) as whole:
        assert whole.finished is not None


@pytest.mark.parametrize("others", [3, 5, 1])
def test_what_shards_did_is_not_done_again_by_any_other_number(tmp_path: Path, others: int) -> None:
    for index in (0, 1):
        run_shard(tmp_path, index, 4, 40)
    with shard_ledger(tmp_path, 2, 4) as stopped:
        stopped.append(tools.rows_of([2, 6, 10]))
    with pytest.raises(MissingShardsError, match="17 of 40"):
        merged(tmp_path, num_rows=40)
    assert sum(run_shard(tmp_path, i, others, 40) for i in range(others)) == 17
    merged(tmp_path)
    assert tools.keys_of(tmp_path / "out.parquet") == tools.expected_keys(40)


def test_an_unsharded_run_finishes_what_shards_began_and_writes_the_output(tmp_path: Path) -> None:
    run_shard(tmp_path, 0, 2, 20)
    with shard_ledger(tmp_path, 1, 2) as stopped:
        stopped.begin([1, 3, 5])
        stopped.append(tools.rows_of([1]))
        stopped.save_inflight({(3, 0): [7, 8], (5, 0): [9]})
    with tools.open_ledger(tmp_path) as whole:
        assert whole.num_done == 11
        assert whole.journal.inflight_tokens(3, 0) == [7, 8]
        assert [whole.journal.attempt(i) for i in (3, 5, 7)] == [2, 2, 1]
        tools.finish(whole, 20)
    assert tools.keys_of(tmp_path / "out.parquet") == tools.expected_keys(20)
    assert not (tmp_path / "out.parquet.ckpt" / "shards").exists()


def test_shards_finish_what_an_unsharded_run_began(tmp_path: Path) -> None:
    with tools.open_ledger(tmp_path) as whole:
        whole.append(tools.rows_of(range(9)))
        whole.save_inflight({(10, 0): [1, 2], (11, 0): [3]})
        whole.checkpoint_input(InputCheckpoint(12, "digest"))
    with shard_ledger(tmp_path, 0, 2) as ledger:
        assert ledger.num_done == 5
        assert (ledger.journal.inflight_tokens(10, 0), ledger.journal.inflight_tokens(11, 0)) == (
            [1, 2],
            [],
        )
        assert ledger.input_checkpoint is not None
        assert ledger.input_checkpoint.rows_read == 12
    assert sum(run_shard(tmp_path, i, 2, 20) for i in range(2)) == 11
    assert merged(tmp_path).rows == 20


def test_merge_names_missing_rows_and_the_shards_to_run(tmp_path: Path) -> None:
    run_shard(tmp_path, 0, 3, 10)
    with shard_ledger(tmp_path, 2, 3) as stopped:
        stopped.append(tools.rows_of([2, 8]))
    with pytest.raises(MissingShardsError, match="4 of 10 rows missing: 1, 4-5, 7") as lacking:
        merged(tmp_path)
    assert lacking.value.exit_code == 66
    assert "--shard 1/3 (3 rows), --shard 2/3 (1 row)" in str(lacking.value.hint)
    assert not (tmp_path / "out.parquet").exists()


def test_rows_that_are_there_twice_do_not_hide_a_gap(tmp_path: Path) -> None:
    with shard_ledger(tmp_path, 0, 2) as a, shard_ledger(tmp_path, 0, 3) as b:
        a.append(tools.rows_of([0, 2, 4]))
        b.append(tools.rows_of([0, 3]))
    with pytest.raises(MissingShardsError, match=r"1 of 5 rows missing: 1"):
        merged(tmp_path, num_rows=5)


def test_the_first_commit_wins_with_all_of_its_samples(tmp_path: Path) -> None:
    """One run met an error where the other made three samples: never a mixture of both."""
    with shard_ledger(tmp_path, 0, 2) as a, shard_ledger(tmp_path, 0, 3) as b:
        b.append([tools.make_row(0, status="error", error_code="oom", completion=None)])
        b.flush()
        a.append([tools.make_row(0, sample) for sample in range(3)])
        a.append(tools.rows_of([2]))
    run_shard(tmp_path, 1, 2, 3)
    assert merged(tmp_path).duplicates_dropped == 3
    assert tools.keys_of(tmp_path / "out.parquet")[:2] == [(0, 0), (1, 0)]


def test_live_runs_of_two_sizes_see_what_the_other_finished(tmp_path: Path) -> None:
    with shard_ledger(tmp_path, 0, 2) as a, shard_ledger(tmp_path, 0, 3) as b:
        a.append(tools.rows_of([0, 2, 4, 6]))
        a.flush()
        b.checkpoint_input(InputCheckpoint(1, "d"))
        assert [i for i in range(12) if b.is_done(i)] == [0, 6]


def test_a_shard_that_is_done_is_done_again_only_where_its_rows_were_lost(tmp_path: Path) -> None:
    for index in range(2):
        run_shard(tmp_path, index, 2, 20)
    assert run_shard(tmp_path, 1, 2, 20) == 0
    lost = next(path for path in tools.parts_of(tmp_path) if "-1of2-" in path.name)
    tools.flip_a_bit(lost, 0.5)
    with pytest.raises(MissingShardsError, match=r"--shard 1/2|10 of 20") as lacking:
        merged(tmp_path)
    assert "--shard 1/2 (10 rows)" in str(lacking.value.hint)
    assert run_shard(tmp_path, 1, 2, 20) == 10
    assert merged(tmp_path).rows == 20


def test_a_part_that_cannot_be_read_for_a_moment_is_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(2):
        run_shard(tmp_path, index, 2, 20)

    def away(*_: Any, **__: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.read_metadata", away)
        with pytest.raises(InputUnreadableError, match=r"cannot read .*part-.*Stale file handle"):
            merged(tmp_path)
    assert not (tmp_path / "out.parquet.ckpt" / "damaged").exists()
    assert merged(tmp_path).rows == 20


def test_shards_with_other_settings_are_refused(tmp_path: Path) -> None:
    with shard_ledger(tmp_path, 0, 2) as first:
        with pytest.raises(FingerprintMismatchError, match="temperature") as refused:
            shard_ledger(tmp_path, 1, 2, fingerprint={"sampling": {"temperature": 1}})
        assert refused.value.exit_code == 4
        first.append(tools.rows_of([0]))


def test_shards_that_read_other_inputs_are_not_merged(tmp_path: Path) -> None:
    for index, digest in enumerate(["one", "other"]):
        with shard_ledger(tmp_path, index, 2) as ledger:
            ledger.append(tools.rows_of(rows_left(ledger, Shard(index, 2), 10)))
            ledger.checkpoint_input(InputCheckpoint(10, digest))
            ledger.finalize(10)
    with pytest.raises(FingerprintMismatchError, match="the first 10 rows differ"):
        merged(tmp_path)


def test_shards_that_do_not_agree_on_the_number_of_rows_are_not_merged(tmp_path: Path) -> None:
    run_shard(tmp_path, 0, 2, 10)
    run_shard(tmp_path, 1, 2, 12)
    with pytest.raises(FingerprintMismatchError, match="0of2 10, 1of2 12"):
        merged(tmp_path)


def test_a_live_shard_keeps_out_the_merge_the_whole_run_and_its_double(tmp_path: Path) -> None:
    with shard_ledger(tmp_path, 1, 4), shard_ledger(tmp_path, 2, 4):
        for come_in in (
            lambda: merged(tmp_path),
            lambda: tools.open_ledger(tmp_path),
            lambda: tools.open_ledger(tmp_path, overwrite=True),
            lambda: shard_ledger(tmp_path, 3, 4, overwrite=True),
        ):
            with pytest.raises(
                OutputHeldError, match=r"shard [12]/4\) is being written by"
            ) as held:
                come_in()
            assert held.value.exit_code == 5
        with pytest.raises(OutputHeldError, match="shard 2/4"):
            shard_ledger(tmp_path, 2, 4)


def test_a_live_whole_run_keeps_shards_out(tmp_path: Path) -> None:
    with tools.open_ledger(tmp_path) as whole:
        with pytest.raises(OutputHeldError, match="being written by"):
            shard_ledger(tmp_path, 0, 2)
        whole.append(tools.rows_of([0]))
        whole.finalize(1)


def test_a_shard_whose_folder_was_begun_anew_by_others_cannot_commit(tmp_path: Path) -> None:
    """Its number is given out a second time; who it was tells them apart."""
    silent = shard_ledger(tmp_path, 0, 2)
    silent.append(tools.rows_of([0]))
    claim = tmp_path / "out.parquet.ckpt" / "shards" / "0of2" / "owners" / "1.json"
    claim.write_text(json.dumps(json.loads(claim.read_text()) | {"host": "elsewhere"}))
    os.utime(claim, (1, 1))
    assert silent._lock is not None
    silent._lock._unlock()
    with shard_ledger(tmp_path, 0, 2, overwrite=True) as anew:
        assert anew.num_done == 0
        with pytest.raises(OutputHeldError, match="lost"):
            silent.append(tools.rows_of([2, 4, 6, 8, 10, 12]))
    tools.die(silent)


def test_overwrite_by_all_shards_discards_only_once(tmp_path: Path) -> None:
    for index in range(2):
        run_shard(tmp_path, index, 2, 10)
    merged(tmp_path)
    again = [run_shard(tmp_path, index, 2, 10, overwrite=True) for index in range(2)]
    assert again == [5, 5]
    assert (tmp_path / "out.parquet").exists()
    assert merged(tmp_path).rows == 10


def test_a_crash_while_the_merge_writes_is_tidied_by_whoever_comes(tmp_path: Path) -> None:
    for index in range(2):
        run_shard(tmp_path, index, 2, 10)
    for moment in ("final.piece", "final.renamed"):

        def crash(point: str, path: Path | None, moment: str = moment) -> None:
            if point == moment:
                raise tools.Crash

        with tools.hooked(crash), pytest.raises(tools.Crash):
            merged(tmp_path)
    assert run_shard(tmp_path, 1, 2, 10) == 0
    assert tools.parts_of(tmp_path) == []
    assert merged(tmp_path).rows == 10


def test_merge_exits_3_where_too_many_rows_failed(tmp_path: Path) -> None:
    with shard_ledger(tmp_path, 0, 1) as ledger:
        ledger.append([tools.make_row(0), tools.make_row(1, status="error", error_code="oom")])
        ledger.finalize(2)
    out = str(tmp_path / "out.parquet")
    assert CliRunner().invoke(merge_command, [out]).exit_code == 3
    assert CliRunner().invoke(merge_command, [out, "--max-failures", "50%"]).exit_code == 0


TURN = st.tuples(
    st.integers(1, 5), st.integers(0, 4), st.integers(0, 9), st.sampled_from(["end", "die", "cut"])
)


@settings(max_examples=20, deadline=None)
@given(total=st.integers(0, 30), turns=st.lists(TURN, max_size=10), seed=st.integers(0, 999))
def test_any_sequence_of_shardings_and_deaths_gives_the_whole_output(
    total: int, turns: list[tuple[int, int, int, str]], seed: int
) -> None:
    """Turns of shards of any size, each ended, killed, or cut off in the middle of a write; then
    the rest by one run or by shards; no row that was durable is computed again."""
    chosen = random.Random(seed)
    durable: set[int] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count, index, rows, way in turns:
            take_turn(folder, Shard(index % count, count), rows, way, total, durable, chosen)
        if seed % 2:
            count = 1 + seed % 4
            for index in range(count):
                run_shard(folder, index, count, total)
            merged(folder)
        else:
            with tools.open_ledger(folder) as whole:
                assert not durable & set(tools.finish(whole, total))
        assert tools.keys_of(folder / "out.parquet") == tools.expected_keys(total)
        assert tools.temporary_files(folder) == []


def take_turn(
    folder: Path,
    shard: Shard,
    count: int,
    way: str,
    total: int,
    durable: set[int],
    chosen: random.Random,
) -> None:
    ledger = shard_ledger(folder, shard.index, shard.count, checkpoint_every=4)
    if ledger.finished is not None:
        ledger.close()
        return
    left = rows_left(ledger, shard, total)
    assert not durable & set(left), "a durable row is computed again"
    chosen.shuffle(left)
    mine = left[:count]
    countdown = [chosen.randint(0, 6)]

    def hook(point: str, path: Path | None) -> None:
        countdown[0] -= 1
        if way == "cut" and countdown[0] < 0:
            raise tools.Crash

    try:
        with tools.hooked(hook):
            ledger.begin(sorted(mine))
            ledger.append(tools.rows_of(mine))
            if way != "die":
                ledger.flush()
                durable.update(mine)
    except tools.Crash:
        pass
    if way == "end":
        ledger.close()
    else:
        tools.die(ledger)
