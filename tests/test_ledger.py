"""Opening, continuing, overwriting and finishing a job; memory and refusals."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledger_tools import (
    FINGERPRINT,
    OTHER,
    expected_keys,
    finished_job,
    hooked,
    keys_of,
    make_row,
    open_ledger,
    parts_of,
    rows_of,
)

from batchgen.errors import (
    FingerprintMismatchError,
    OutputHeldError,
    OutputUnwritableError,
    StoppedError,
)
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.rows import OutputRow
from batchgen.job.shard import Shard
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.part import Columns, PartStem
from batchgen.job.storage.parts import write_part
from batchgen.job.storage.totals import totals_of_parts
from batchgen.job.stores.files import checked_name


def test_overwrite_discards_work_of_other_settings(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of([0, 1]))
    with open_ledger(tmp_path, fingerprint=OTHER, overwrite=True) as ledger:
        assert ledger.num_done == 0
        assert parts_of(tmp_path) == []


@pytest.mark.parametrize("shard", [None, Shard(1, 2)])
def test_a_run_killed_before_it_read_as_far_as_the_one_before_forgets_no_row_of_the_input(
    tmp_path: Path, shard: Shard | None
) -> None:
    far = InputCheckpoint(9, "of nine", ({"size": 1},), ((4, "of four"),), "sum")
    with open_ledger(tmp_path, shard=shard) as ledger:
        ledger.append(rows_of([7]))
        ledger.checkpoint_input(far)
    with open_ledger(tmp_path, shard=shard) as ledger:
        ledger.checkpoint_input(InputCheckpoint(3, "of three", ({"size": 2},)))
    with open_ledger(tmp_path, shard=shard) as ledger:
        assert ledger.input_checkpoint == replace(far, sources=({"size": 2},))


@pytest.mark.parametrize("shard", [None, Shard(1, 2)])
def test_rows_whose_manifest_is_gone_are_discarded_only_when_asked(
    tmp_path: Path, shard: Shard | None
) -> None:
    with open_ledger(tmp_path, shard=shard) as ledger:
        ledger.append(rows_of([1, 3]))
    for manifest in list(tmp_path.rglob("manifest.json")):
        manifest.unlink()
    with pytest.raises(FingerprintMismatchError, match=r"no manifest\.json that says"):
        open_ledger(tmp_path, shard=shard)
    assert len(list(tmp_path.rglob("part-*"))) == 1
    with open_ledger(tmp_path, shard=shard, overwrite=True) as ledger:
        assert ledger.num_done == 0


def test_an_output_changed_by_someone_else_is_not_called_finished(tmp_path: Path) -> None:
    out = finished_job(tmp_path)
    pq.write_table(pq.read_table(out).slice(1).replace_schema_metadata(None), out)
    with pytest.raises(FingerprintMismatchError, match="changed since"):
        open_ledger(tmp_path)


def test_a_copied_output_with_a_new_time_is_still_finished(tmp_path: Path) -> None:
    out = finished_job(tmp_path)
    os.utime(out, (1, 1))
    with open_ledger(tmp_path) as again:
        assert again.finished is not None


def test_a_removed_checkpoint_folder_is_made_up_for_by_the_outputs_footer(tmp_path: Path) -> None:
    finished_job(tmp_path)
    shutil.rmtree(tmp_path / "out.parquet.ckpt")
    with open_ledger(tmp_path) as again:
        assert again.finished is not None
        assert again.finished.rows == 5
    with pytest.raises(FingerprintMismatchError, match=r"sampling.temperature: 0.7 -> 0.9"):
        open_ledger(tmp_path, fingerprint=OTHER)


def test_long_texts_make_several_parts_and_rows_stay_whole(tmp_path: Path) -> None:
    text = "x" * (5 << 20)
    with open_ledger(tmp_path, checkpoint_every=10**6) as ledger:
        ledger.append([make_row(i, s, prompt=text) for i in range(5) for s in range(2)])
        ledger.flush()
        samples = [pq.read_table(p, columns=["index"]).num_rows for p in parts_of(tmp_path)]
        assert samples == [4, 4, 2]


def test_a_removed_output_is_made_again(tmp_path: Path) -> None:
    finished_job(tmp_path).unlink()
    with open_ledger(tmp_path) as again:
        assert again.finished is None
        assert again.num_done == 0


def test_a_late_part_of_another_fingerprint_is_never_used(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of([0, 1]))
    stray = parts_of(tmp_path)[0]
    data = stray.read_bytes()
    with open_ledger(tmp_path, fingerprint=OTHER, overwrite=True) as ledger:
        stray.write_bytes(data)
    with open_ledger(tmp_path, fingerprint=OTHER, overwrite=True) as ledger:
        assert ledger.num_done == 0
        assert not stray.exists()


def test_what_a_late_process_leaves_of_a_discarded_job_is_never_used(tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet.ckpt"
    with open_ledger(tmp_path) as ledger:  # of an input that is another one by now
        ledger.append(rows_of([0, 1]))
        ledger.save_inflight({(5, 0): [9]})
    late = [*parts_of(tmp_path), *folder.glob("inflight-*")]
    held = [(path, path.read_bytes()) for path in late]
    with open_ledger(tmp_path, overwrite=True) as ledger:
        for path, data in held:
            path.write_bytes(data)
    with open_ledger(tmp_path, overwrite=True) as ledger:
        assert (ledger.num_done, ledger.journal.num_inflight_tokens) == (0, 0)


def test_saved_tokens_of_an_earlier_version_are_taken(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.save_inflight({(5, 0): [9]})
    saved = next((tmp_path / "out.parquet.ckpt").glob("inflight-*"))
    attempt, _birth, crc, suffix = saved.name.split(".")
    saved.rename(saved.with_name(f"{attempt}.{crc}.{suffix}"))
    with open_ledger(tmp_path) as ledger:
        assert ledger.journal.inflight_tokens(5, 0) == [9]


def test_a_second_process_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    with (
        open_ledger(tmp_path),
        pytest.raises(OutputHeldError, match=f"process {os.getpid()}"),
    ):
        open_ledger(tmp_path)


def test_a_stop_ends_the_looking_at_parts_and_holds_nothing(tmp_path: Path) -> None:
    """There may be tens of thousands, on a disk behind a network."""
    for index in range(8):
        with open_ledger(tmp_path) as ledger:
            ledger.append(rows_of([index]))
    looks = []

    def stop_at_the_third() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise StoppedError("stopped", "run again")

    with pytest.raises(StoppedError):
        open_ledger(tmp_path, check_stop=stop_at_the_third)
    with open_ledger(tmp_path) as ledger:
        assert ledger.num_done == 8


def test_attempts_count_the_runs_that_began_a_row(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.begin([0, 1, 2, 7])
        ledger.append(rows_of([1]))
    with open_ledger(tmp_path) as ledger:
        assert [ledger.journal.attempt(i) for i in (0, 3, 7)] == [2, 1, 2]
        ledger.begin([0])
        ledger.begin([0])
        assert ledger.num_recomputed == 2
    with open_ledger(tmp_path) as ledger:
        assert [ledger.journal.attempt(i) for i in (0, 2, 7)] == [3, 2, 2]
        assert len(list((tmp_path / "out.parquet.ckpt").glob("begun-*"))) == 1


def test_a_torn_journal_costs_only_its_torn_record(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.begin(range(100))
        ledger.begin([200])
        journal = next((tmp_path / "out.parquet.ckpt").glob("begun-*"))
        size = journal.stat().st_size
    os.truncate(journal, size - 5)
    with open_ledger(tmp_path) as ledger:
        assert [ledger.journal.attempt(i) for i in (0, 99, 200)] == [2, 2, 1]


def test_saved_tokens_last_until_their_rows_are_done(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.save_inflight({(0, 0): [1, 2], (0, 1): [3], (5, 0): [9]})
    with open_ledger(tmp_path) as ledger:
        assert ledger.journal.num_inflight_tokens == 4
        assert ledger.journal.inflight_tokens(0, 1) == [3]
        ledger.append([make_row(0), make_row(0, 1)])
        ledger.save_inflight({(7, 0): [4]})
    with open_ledger(tmp_path) as ledger:
        assert [ledger.journal.inflight_tokens(i, 0) for i in (0, 5, 7)] == [[], [9], [4]]
    damaged = next((tmp_path / "out.parquet.ckpt").glob("inflight-*"))
    damaged.write_bytes(damaged.read_bytes() + b" ")
    with open_ledger(tmp_path) as ledger:
        assert ledger.journal.num_inflight_tokens == 0


def test_rows_become_durable_with_age_while_nothing_is_appended(tmp_path: Path) -> None:
    with open_ledger(tmp_path, background=True, checkpoint_seconds=0.05) as ledger:
        ledger.append(rows_of([0]))
        deadline = time.monotonic() + 10
        while not parts_of(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(parts_of(tmp_path)) == 1


@pytest.mark.parametrize("seconds", [1e10, 1e300, float("inf")])
def test_rows_that_never_grow_old_enough_are_durable_at_the_end(
    tmp_path: Path, seconds: float
) -> None:
    """More seconds than the system can wait for ended the thread that writes, and the run waited
    for it for ever."""
    ledger = open_ledger(tmp_path, background=True, checkpoint_seconds=seconds)
    ledger.append(rows_of([0]))
    time.sleep(0.1)  # so that the thread waits for them to grow old
    end = threading.Thread(target=ledger.close, daemon=True)
    end.start()
    end.join(30)
    assert not end.is_alive()
    assert len(parts_of(tmp_path)) == 1


def test_the_background_thread_reports_what_it_met(tmp_path: Path) -> None:
    def fill_disk(point: str, path: Path | None) -> None:
        if point == "part.fsync":
            raise OSError(28, "No space left on device")

    ledger = open_ledger(tmp_path, background=True)
    with hooked(fill_disk):
        ledger.append(rows_of([0, 1]))
        with pytest.raises(OutputUnwritableError, match="No space left") as full:
            ledger.flush()
        assert full.value.exit_code == 73
    ledger.close()
    with open_ledger(tmp_path) as again:
        assert again.num_done == 0


def test_a_row_appended_twice_counts_once(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append([make_row(0, completion="first")])
        ledger.append([make_row(0, completion="second")])
        ledger.finalize(1)
    assert pq.read_table(tmp_path / "out.parquet")["completion"].to_pylist() == ["first"]


def test_a_linked_output_is_written_through_the_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "out.parquet").symlink_to(real / "data.parquet")
    finished_job(tmp_path)
    assert (tmp_path / "out.parquet").is_symlink()
    assert keys_of(real / "data.parquet") == expected_keys(5)


def test_a_job_is_one_whichever_linked_folder_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    one, other = tmp_path / "one", tmp_path / "other"
    for link in (one, other):
        link.symlink_to("real")
    with open_ledger(one) as ledger:
        ledger.append(rows_of([0, 1]))
        with pytest.raises(OutputHeldError):
            open_ledger(other)
    with open_ledger(other) as ledger:
        assert ledger.num_done == 2


def test_files_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        out = finished_job(tmp_path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "out.parquet.ckpt" / "manifest.json").stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_made_is_an_error_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.ckpt").write_text("a file")
    with pytest.raises(OutputUnwritableError, match=r"out\.parquet\.ckpt"):
        open_ledger(tmp_path)


def test_the_ledger_imports_no_torch() -> None:
    modules = "batchgen.job.ledger.ledger, batchgen.job.verbs.status"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_memory_is_one_bit_a_row() -> None:
    bitmap = Bitmap()
    tracemalloc.start()
    for start in range(0, 1_000_000, 100_000):
        bitmap.add_array(np.arange(start, start + 100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(bitmap) == 1_000_000
    assert size < 300_000
    assert 999_999 in bitmap
    assert 1_000_000 not in bitmap
    probe = np.array([0, 5, 2_000_000])
    assert bitmap.contains_array(probe).tolist() == [True, True, False]
    assert not bitmap.add(7)


def odd_rows(indices: range) -> list[OutputRow]:
    """Of all samples, some failed and some cut."""
    failed = {"status": "error", "error_code": "oom", "finish_reason": None}
    return [
        replace(row, **(failed if row.index % 5 == 0 else {"finish_reason": "length"}))
        for row in rows_of(indices)
        if row.index % 5 or not row.sample
    ]


def test_a_stop_counts_rows_without_reading_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of millions of rows that took longer than schedulers wait after TERM."""
    with open_ledger(tmp_path) as ledger:
        ledger.append(odd_rows(range(40)))
    with open_ledger(tmp_path) as ledger:
        ledger.append(odd_rows(range(40, 60)))
        ledger.flush()
        read = totals_of_parts(parts_of(tmp_path))
        assert (read.rows, read.errors, read.length) == (60, 12, read.output_rows - 12)
        monkeypatch.setattr("batchgen.job.storage.totals.read_columns", None)
        assert ledger.totals() == read


@pytest.mark.parametrize("shard", [None, Shard(1, 2)])
def test_rows_that_two_parts_have_and_parts_that_tell_nothing_are_counted_too(
    tmp_path: Path, shard: Shard | None
) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(odd_rows(range(40)))
        job = ledger.manifest.job
    again = PartStem(job, 9, 1)
    write_part(
        parts_of(tmp_path)[0].parent, again, odd_rows(range(30, 50)), Columns(), lambda: None
    )
    silence(parts_of(tmp_path)[0])
    with open_ledger(tmp_path, shard=shard) as ledger:
        totals = ledger.totals()
    wanted = odd_rows(range(50) if shard is None else range(1, 50, 2))
    assert (totals.rows, totals.output_rows) == (len({row.index for row in wanted}), len(wanted))
    assert totals.errors == sum(row.status == "error" for row in wanted)


def silence(part: Path) -> None:
    """Make it one of a version that noted no totals."""
    table = pq.read_table(part)
    said = {key: text for key, text in table.schema.metadata.items() if key != b"batchgen.totals"}
    assert len(said) < len(table.schema.metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(said), sink)
    data = bytes(sink.getvalue())
    (part.parent / checked_name(part.name.split(".")[0], data, "parquet")).write_bytes(data)
    part.unlink()


def test_a_fingerprint_may_nest_or_not(tmp_path: Path) -> None:
    with open_ledger(tmp_path):
        pass
    flat = {"model.name": "m", "sampling.temperature": 0.7}
    open_ledger(tmp_path, fingerprint=flat).close()
    assert FINGERPRINT["sampling"]["temperature"] == 0.7
