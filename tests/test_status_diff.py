"""`status` and `diff`, as people and scripts call them."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from echo_runs import batchgen, environment, prompts, write_rows
from ledger_tools import make_row, open_ledger, parts_of, rows_of, truncate

from batchgen.cli.diff import diff
from batchgen.cli.status import status
from batchgen.counts import counted
from batchgen.errors import FingerprintMismatchError, InputUnreadableError, UsageError
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.promise import promise_of
from batchgen.job.rows import OutputRow
from batchgen.job.storage.parts import part_summary
from batchgen.job.verbs.compare import compare
from batchgen.job.verbs.part_facts import facts_of_part


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def status_json(folder: Path) -> dict[str, Any]:
    found = call(status, folder / "out.parquet", "--json")
    assert found.exit_code == 0
    data: dict[str, Any] = json.loads(found.stdout)
    return data


def test_status_tells_a_running_job_from_a_stopped_and_a_finished_one(tmp_path: Path) -> None:
    failed = make_row(9, status="error", error_code="oom", error_message="too big")
    with open_ledger(tmp_path) as ledger:
        ledger.append([*rows_of(range(4)), failed])
        ledger.flush()
        ledger.checkpoint_input(InputCheckpoint(10, "d"))
        ledger.save_inflight({(5, 0): [1, 2, 3]})
        seen = status_json(tmp_path)
        assert (seen["state"], seen["rows_done"], seen["rows_total"]) == ("running", 5, None)
        assert seen["owner"]["alive"]
        assert seen["inflight_tokens_saved"] == 3
    seen = status_json(tmp_path)
    assert (seen["state"], seen["errors"], seen["owner"]) == ("stopped", {"oom": 1}, None)
    assert "run the same command again" in call(status, tmp_path / "out.parquet").stdout
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(4, 9)))
        ledger.finalize(10)
    seen = status_json(tmp_path)
    assert (seen["state"], seen["rows_done"], seen["errors"]) == ("complete", 10, {"oom": 1})


def test_a_job_whose_output_was_removed_is_to_be_run_again(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(4)))
        ledger.checkpoint_input(InputCheckpoint(4, "d"))
        ledger.finalize(4)
    seen = status_json(tmp_path)
    assert (seen["state"], seen["rows_done"]) == ("complete", 4)
    (tmp_path / "out.parquet").unlink()
    seen = status_json(tmp_path)
    assert (seen["state"], seen["rows_done"], seen["rows_total"]) == ("stopped", 0, 4)


def test_an_output_that_is_not_whole_is_not_called_complete(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(20))
    folder, file = tmp_path / "out", tmp_path / "out.parquet"
    for out, flags in ((folder, ["--rows-per-file", 5]), (file, [])):
        assert batchgen("run", "-i", source, "-o", out, "--engine", "echo", *flags).returncode == 0
        assert batchgen("status", out).returncode == 0
    next(folder.glob("part-*")).unlink()
    lost = batchgen("status", folder)
    assert lost.returncode == 66
    assert "is not whole: part-0000" in lost.stderr
    os.truncate(file, 500)
    cut = batchgen("status", file)
    assert cut.returncode == 66
    assert "was changed since its job was complete" in cut.stderr


def test_a_finished_output_is_known_without_its_checkpoint_folder(tmp_path: Path) -> None:
    """The folder may be removed (docs/contract.md); of a changed file nothing is claimed."""
    failed = make_row(4, status="error", error_code="oom", error_message="too big")
    with open_ledger(tmp_path) as ledger:
        ledger.append([*rows_of(range(4)), failed])
        ledger.checkpoint_input(InputCheckpoint(5, "d"))
        ledger.finalize(5)
    shutil.rmtree(tmp_path / "out.parquet.ckpt")
    seen = status_json(tmp_path)
    assert (seen["state"], seen["rows_done"], seen["rows_total"]) == ("complete", 5, 5)
    assert seen["errors"] == {"oom": 1}
    some = pq.read_table(tmp_path / "out.parquet").slice(0, 3)
    pq.write_table(some, tmp_path / "out.parquet")
    with pytest.raises(InputUnreadableError, match="no run has begun"):
        call(status, tmp_path / "out.parquet")
    with pytest.raises(FingerprintMismatchError, match="changed since"):
        open_ledger(tmp_path)


def test_status_survives_a_damaged_part(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append(rows_of(range(4)))
    truncate(parts_of(tmp_path)[0])
    seen = status_json(tmp_path)
    assert seen["damaged_parts"] == 1


def test_status_of_a_job_under_way_imports_neither_pyarrow_nor_numpy(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.append([*rows_of(range(4)), make_row(9, status="error", error_code="oom")])
    code = (
        "import sys; from batchgen.cli.main import cli\n"
        "try: cli()\n"
        "except SystemExit: print(sorted({'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, "status", str(tmp_path / "out.parquet")]
    told = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert "rows done   5" in told.stdout
    assert told.stdout.splitlines()[-1] == "[]"


def test_a_part_tells_the_same_with_and_without_pyarrow(tmp_path: Path) -> None:
    code = "batchgen.part" * 6000  # the footer is longer than what is read at first
    with open_ledger(tmp_path) as ledger:
        failed = make_row(
            1, status="error", error_code=code, error_message="\x18\x0dbatchgen.part\x18"
        )
        ledger.append([*rows_of(range(1)), failed])
    (part,) = parts_of(tmp_path)
    summary = part_summary(part)
    assert facts_of_part(part) == (summary.rows, summary.errors) == (2, {code: 1})


def test_shards_that_ended_with_fewer_rows_than_others_are_not_ready_to_merge(
    tmp_path: Path,
) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", prompts(20)), tmp_path / "out.parquet"
    run = ("run", "--engine", "echo", "--in", rows, "--out", out)
    assert batchgen(*run, "--shard", "0/2", "--limit", 5).returncode == 0
    assert batchgen(*run, "--shard", "1/2").returncode == 0
    assert batchgen("merge", out).returncode == 4
    seen = status_json(tmp_path)
    assert (seen["state"], seen["rows_done"], seen["rows_total"]) == ("stopped", 13, 20)
    assert [shard["state"] for shard in seen["shards"]] == ["stopped", "done"]
    assert batchgen(*run, "--shard", "0/2", "--incremental").returncode == 0
    assert status_json(tmp_path)["state"] == "mergeable"
    assert batchgen("merge", out).returncode == 0


def test_status_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadableError, match="no run has begun"):
        call(status, tmp_path / "out.parquet")


def output(folder: Path, rows: list[OutputRow], facts: dict[str, Any] | None = None) -> Path:
    folder.mkdir()
    with open_ledger(folder) as ledger:
        ledger.manifest.facts.update(facts or {})
        ledger.append(rows)
        ledger.finalize(len({row.index for row in rows}))
    return folder / "out.parquet"


def test_outputs_that_differ_only_in_times_and_runs_are_equal(tmp_path: Path) -> None:
    a = output(tmp_path / "a", [make_row(i, latency_s=1.0, attempt=1) for i in range(50)])
    b = output(tmp_path / "b", [make_row(i, latency_s=2.0, attempt=3) for i in range(50)])
    same = call(diff, a, b)
    assert same.exit_code == 0
    assert "50 of 50 rows equal (100.00%)" in same.stdout
    assert call(diff, a, b, "--columns", "latency_s").exit_code == 1


def test_the_first_differences_are_shown(tmp_path: Path) -> None:
    a = output(tmp_path / "a", [make_row(i) for i in range(50)])
    b = output(tmp_path / "b", [make_row(i, completion="x" if i in (7, 30) else f"completion {i}.0")
                                for i in range(48)])  # fmt: skip
    found = call(diff, a, b, "--show", 1)
    assert found.exit_code == 1
    assert "46 of 50 rows equal (92.00%)" in found.stdout
    assert "2 rows only in the first: index 48 sample 0" in found.stdout
    assert '- "completion 7.0"\n    + "x"' in found.stdout
    assert "and 1 more" in found.stdout
    data = json.loads(call(diff, a, b, "--json").stdout)
    assert [d["key"] for d in data["differences"]] == [[7, 0], [30, 0]]
    assert not data["same"]


def test_outputs_that_differ_say_whether_they_should_have_been_equal(tmp_path: Path) -> None:
    held = {"device": "cuda:0 (A)", "deterministic": promise_of("cpu"), "versions": {"torch": "1"}}
    newer = held | {"deterministic": promise_of("cpu") | {"computed_with": {"torch": "2"}}}
    within = held | {"deterministic": promise_of("cpu") | {"changed_within": ["torch: 1 -> 2"]}}

    def said(name: str, facts: dict[str, Any]) -> str:
        out = output(tmp_path / name, [make_row(0, completion="x")], facts)
        found = call(diff, first, out)
        assert json.loads(call(diff, first, out, "--json").stdout)["because"]
        return found.stdout

    first = output(tmp_path / "first", [make_row(0)], held)
    assert "please report it" in said("same", held | {"device": "cuda:1 (A)"})
    assert "device: cuda (A) -> cuda (B)" in said("card", held | {"device": "cuda:0 (B)"})
    assert re.search(r"one version: .*torch: \S+ -> 2", said("version", newer))
    assert "the second was not computed by one: torch: 1 -> 2" in said("mixed", within)
    assert "the second was not computed with --deterministic" in said("plain", {})


def test_rows_are_matched_by_id_in_any_order_and_by_occurrence(tmp_path: Path) -> None:
    order = list(range(40))
    random.Random(1).shuffle(order)
    texts = [f"text {i}" for i in range(40)]
    a = output(tmp_path / "a", [make_row(i, completion=texts[i], prompt="p") for i in range(40)])
    b = output(
        tmp_path / "b",
        [
            make_row(at, id=f"row-{i}", completion=texts[i], prompt="p")
            for at, i in enumerate(order)
        ],
    )
    assert call(diff, a, b, "--on", "id").exit_code == 0
    assert call(diff, a, b).exit_code == 1
    twins = [make_row(0, id="x"), make_row(1, id="x", status="error", completion=None)]
    c = output(tmp_path / "c", twins)
    assert compare(c, c, "id").same


def test_columns_of_one_file_only_are_a_difference(tmp_path: Path) -> None:
    a = output(tmp_path / "a", [make_row(0, kept={"k": "v"})])
    b = output(tmp_path / "b", [make_row(0)])
    found = call(diff, a, b)
    assert found.exit_code == 1
    assert "columns only in the first: k" in found.stdout
    assert call(diff, a, b, "--columns", "completion").exit_code == 0
    with pytest.raises(UsageError, match="missing in one file"):
        compare(a, b, columns=["k"])


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("no")
    with pytest.raises(InputUnreadableError, match="as Parquet"):
        compare(path, path)


def test_messages_count_one_thing_as_one() -> None:
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    told = [counted(number, "row is", "rows are") for number in (1, 2)]
    assert told == ["1 row is", "2 rows are"]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_numbers_that_python_hashes_alike_are_different(tmp_path: Path, kind: pa.DataType) -> None:
    a, b = (
        write_numbers(tmp_path / f"{value}.parquet", [5, value, None], kind) for value in (-1, -2)
    )
    found = compare(a, b)
    assert (found.rows_a, found.common, found.equal) == (3, 3, 2)
    assert [one.columns for one in found.differences] == [{"number": (-1, -2)}]
    on_number = compare(a, b, on="number")
    assert (on_number.common, on_number.only_a, on_number.only_b) == (2, [(-1, 0)], [(-2, 0)])


def test_what_is_no_number_is_equal_to_itself(tmp_path: Path) -> None:
    numbers = [math.nan if place % 2 else float(place) for place in range(1000)]
    a = write_numbers(tmp_path / "a.parquet", numbers, pa.float64())
    b = write_numbers(tmp_path / "b.parquet", [*numbers[:-1], 1.0], pa.float64())
    assert compare(a, a).same
    found = compare(a, b)
    assert (found.equal, [one.key for one in found.differences]) == (999, [(999, 0)])


def write_numbers(path: Path, numbers: list[Any], kind: pa.DataType) -> Path:
    count = len(numbers)
    columns = {"index": pa.array(range(count), pa.int64()), "sample": pa.array([0] * count)}
    pq.write_table(pa.table(columns | {"number": pa.array(numbers, kind)}), path)
    return path
