"""The selftests pass here, and each of their judgements can fail."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import warm_process
from click.testing import CliRunner
from echo_runs import batchgen, prompts, summary_of, write_rows
from ledger_tools import open_ledger, parts_of, rows_of

from batchgen.cli.main import cli
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec
from batchgen.job.storage.layout import list_parts
from batchgen.selftest.audit import begun_again, differences, leftovers
from batchgen.selftest.bad_files import jsonl_file
from batchgen.selftest.blows import damage
from batchgen.selftest.child import Child, SelftestError
from batchgen.selftest.fuzz import Fuzz


@pytest.fixture
def warm_children(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes of a selftest in this process start as those of tests do."""

    def start(command: list[str], **more: Any) -> subprocess.Popen[Any]:
        assert command[:3] == [sys.executable, "-m", "batchgen"]
        return warm_process.start(command[3:], **more)

    monkeypatch.setattr(
        "batchgen.selftest.child.subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start})
    )
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("faults", [[], ["--faults"]])
def test_killed_runs_end_as_if_unbroken(tmp_path: Path, faults: list[str]) -> None:
    args = ["--kills", 5, "--rows", 120, "--model", "echo", "--seed", 5, "--folder", tmp_path]
    result = CliRunner().invoke(cli, ["selftest", "crash", *map(str, args), *faults])
    figures = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert figures["ok"]
    assert figures["kills"] == figures["exit_codes"]["-9"] == 5
    assert figures["recomputed"] <= figures["recomputed_bound"]


def test_generated_bad_inputs_crash_nothing_and_lose_no_row(tmp_path: Path) -> None:
    result = batchgen("selftest", "fuzz", "--inputs", 3000, "--seed", 9, "--folder", tmp_path)
    figures = summary_of(result)
    assert result.returncode == 0, result.stderr
    assert figures["inputs"] == 3000
    assert figures["descriptors_more"] == 0
    assert len(figures["rows"]) >= 6, "the generator reaches few kinds of errors"


def test_growing_jobs_stay_flat(tmp_path: Path) -> None:
    args = ["--minutes", 0.05, "--rows", 500, "--folder", tmp_path]
    result = batchgen("selftest", "soak", *args)
    figures = summary_of(result)
    assert result.returncode == 0, result.stderr
    assert figures["peak_bytes"] > 0
    assert 0 < figures["peak_descriptors"] < 50


def test_a_child_obeys_signals_that_the_selftest_was_started_to_ignore(tmp_path: Path) -> None:
    """As under nohup, and behind `&` in a script."""
    source = write_rows(tmp_path / "in.jsonl", prompts(2000))
    out = tmp_path / "out.parquet"
    args = ["run", "-i", source, "-o", out, "--engine", "echo", "--checkpoint-every", "10"]
    ignored = (signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(signum, signal.SIG_IGN) for signum in ignored]
    try:
        with Child(args, tmp_path / "log", "slow:at=engine.step,seconds=0.05,rows=2") as child:
            assert [signal.getsignal(signum) for signum in ignored] == [signal.SIG_IGN] * 2
            assert child.wait_until(lambda: bool(list_parts(tmp_path / f"{out.name}.ckpt/parts")))
            child.signal(signal.SIGHUP)
            assert child.wait(timeout=10) == 75
    finally:
        for signum, handler in zip(ignored, before, strict=True):
            signal.signal(signum, handler)
    assert "stopped by SIGHUP" in child.stderr


def test_a_run_that_hangs_shows_where(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(200))
    args = ["run", "-i", source, "-o", tmp_path / "out.parquet", "--engine", "echo"]
    with Child(args, tmp_path / "log", "stall:at=part.rename,seconds=600") as child:
        folder = tmp_path / "out.parquet.ckpt" / "parts"
        assert child.wait_until(lambda: bool(list(folder.glob(".*.tmp"))))
        child.signal(signal.SIGUSR1)
        with pytest.raises(SelftestError) as caught:
            child.wait(timeout=0.5)
    assert re.match(r"a run hung for 0\.5 s after SIGUSR1 and was killed", caught.value.message)
    assert "in _strike" in caught.value.message, "the thread that stalls"
    assert "in finalize" in caught.value.message or "in flush" in caught.value.message
    assert not child.running


def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """The same output twice."""
    source = write_rows(tmp_path / "in.jsonl", prompts(20))
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    for path in (whole, out):
        assert batchgen("run", "-i", source, "-o", path, "--engine", "echo").returncode == 0
    return whole, out


def changed(table: pa.Table, how: str) -> pa.Table:
    """A table with one thing wrong."""
    if how == "lost":
        return table.slice(1)
    if how == "twice":
        return pa.concat_tables([table, table.slice(3, 1)])
    if how == "order":
        return table.take(list(range(19, -1, -1)))
    text = pc.replace_substring(table["completion"], "number 7", "number 8")
    return table.set_column(table.column_names.index("completion"), table.schema.field(5), text)


def test_the_audit_sees_what_is_wrong_with_an_output(tmp_path: Path) -> None:
    whole, out = outputs(tmp_path)
    table = pq.read_table(out)
    assert table.column_names[5] == "completion"
    assert differences(whole, out) == []
    for how in ("lost", "twice", "order", "text"):
        pq.write_table(changed(table, how), out)
        assert differences(whole, out), how


def test_the_audit_sees_what_is_left_behind(tmp_path: Path) -> None:
    _, out = outputs(tmp_path)
    assert leftovers(out) == []
    assert begun_again(out) == 0
    for name in (".out.parquet.0123abcd.tmp", "out.parquet.ckpt/parts/.x.0123abcd.tmp"):
        (tmp_path / name).touch()
        assert leftovers(out) == [Path(name).name]
        (tmp_path / name).unlink()


def test_damage_makes_a_part_unreadable_and_its_rows_undone(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.begin(range(8))
        ledger.append(rows_of(range(8)))
        ledger.flush()
    held = damage(parts_of(tmp_path)[0].parent, random.Random(1))
    assert held > 0
    with open_ledger(tmp_path) as ledger:
        assert ledger.num_done == 8 - held


def test_generated_files_have_the_rows_that_they_are_said_to_have(tmp_path: Path) -> None:
    for seed in range(20):
        path = tmp_path / f"{seed}.jsonl"
        count = jsonl_file(path, 30, random.Random(seed))
        reader = Reader(InputSpec((str(path),), keep_columns="none"))
        assert len(list(reader)) == count


def test_a_lost_row_is_a_problem_of_the_fuzz_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.selftest.fuzz.jsonl_file", lambda *a: jsonl_file(*a) + 1)
    figures = Fuzz(tmp_path, 600, 3, lambda text: None).run()
    assert not figures["ok"]
    assert "501 of 502 rows" in figures["problems"][0]
