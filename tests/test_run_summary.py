"""What a run says at its end: lines for people on a terminal, one JSON object elsewhere."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest
from echo_runs import batchgen_command, environment, prompts, write_rows

from batchgen.cli.command import main
from batchgen.cli.screen.run_summary import summary_lines
from batchgen.errors import ErrorCode
from batchgen.job.rows import FirstFailure
from batchgen.job.run.row_advice import _ADVICE, advice_for
from batchgen.job.run.summary import Summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def echo(source: Path, out: Path, *flags: object) -> int:
    words = ["run", "-i", source, "-o", out, "--engine", "echo", *flags]
    return main([str(word) for word in words])


def test_a_terminal_gets_lines_on_stderr_and_no_json(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(5))
    ours, theirs = pty.openpty()
    out, summary = tmp_path / "o.parquet", tmp_path / "s.json"
    words = ("run", "-i", source, "-o", out, "--engine", "echo", "--summary", summary)
    process = subprocess.Popen(
        batchgen_command(*words), env=environment(), stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0, said
    with pytest.raises(OSError):  # noqa: PT011  # nothing was written there: the end alone
        os.read(ours, 1)
    os.close(ours)
    assert "o.parquet: complete" in said
    assert "  rows    5 ok, 0 failed" in said
    assert "{" not in said
    assert json.loads(summary.read_text())["ok"] == 5


def test_json_on_a_terminal_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, terminal = (
        write_rows(tmp_path / "in.jsonl", prompts(5)),
        tmp_path / "o",
        Terminal(),
    )
    monkeypatch.setattr("sys.stdout", terminal)
    assert echo(source, out, "--progress", "none") == 0
    assert terminal.getvalue() == ""
    assert echo(source, out, "--progress", "none", "--json") == 0
    assert json.loads(terminal.getvalue())["rows"] == 5


def test_the_lines_are_aligned_and_say_what_bounded_the_run() -> None:
    summary = Summary(
        "out.parquet", rows=12, ok=9, errors=3, length=2, computed=10, reused=2,
        prompt_tokens=3000, completion_tokens=2000, cached_tokens=48, wall_s=30.0, load_s=5.0,
        engine_s=20.0, output_tokens_per_s=100.0, total_tokens_per_s=250.0, device="cpu",
        model="m", bound_by="decode", error_codes={"oom": 1, "invalid_json": 2},
        failures=(FirstFailure("invalid_json", 3, "a.jsonl:4", "Expecting value"),),
    )  # fmt: skip
    lines = summary_lines(summary)
    assert lines == [
        "out.parquet: complete",
        "  rows    9 ok, 3 failed, 2 cut by max_tokens, 2 from earlier runs",
        "  failed  2 invalid_json, 1 oom",
        "  first   a.jsonl:4: Expecting value",
        "  tokens  3,000 read (48 from the cache), 2,000 written",
        "  speed   100 tokens/s written, 250 with prompts, 0.5 rows/s",
        "  time    30.0 s: loading 5.0, generating 20.0, the rest 5.0; "
        "bound by generating tokens (decode)",
        "  model   m on cpu",
        "  next    batchgen inspect out.parquet --failed",
    ]


def test_failed_rows_are_told_with_their_place_the_first_of_each_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", ["", "nope", "{bad", {"text": "x"}, {"prompt": "y"}])
    assert echo(source, tmp_path / "o.parquet") == 3
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0].startswith("batchgen: 3 of 4 rows failed (2 invalid_json, 1 missing_prompt); ")
    assert lines[1].startswith(f"  {source}:2: invalid_json: ")
    assert lines[3].startswith(f"  {source}:4: missing_prompt: ")
    assert '["text"]' in lines[3]
    assert all(line.startswith("    next: ") for line in (lines[2], lines[4]))
    assert "failures" not in json.loads(said.out)


def test_a_run_that_goes_on_or_finds_all_done_names_the_places_of_earlier_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["", "nope", {"prompt": "y"}, {"prompt": 5}, {"prompt": "z"}]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "o.parquet"
    assert echo(source, out) == 3
    first = capsys.readouterr().err
    assert f"  {source}:2: invalid_json: " in first
    assert echo(source, out) == 3
    assert capsys.readouterr().err.endswith(first)
    write_rows(source, [*rows, "{bad", {"prompt": "x", "n": 0}])
    assert echo(source, out, "--incremental") == 3
    grown = capsys.readouterr().err
    for place in ("2: invalid_json", "4: invalid_row", "7: invalid_param"):
        assert f"  {source}:{place}: " in grown
    assert "which:" not in grown


def test_failures_of_rows_that_are_tried_again_are_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": "y"}, {"prompt": "z"}])
    monkeypatch.setenv("BATCHGEN_FAULT", "refuse:id=a")
    assert echo(source, tmp_path / "o.parquet") == 3
    assert f"  {source}:1: internal: " in capsys.readouterr().err
    monkeypatch.delenv("BATCHGEN_FAULT")
    assert echo(source, tmp_path / "o.parquet", "--retry", "failed") == 0
    assert json.loads((tmp_path / "o.parquet.ckpt/manifest.json").read_text())["failures"] == []


def test_a_rerun_of_a_job_with_failed_rows_says_what_to_do_and_what_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an earlier version began it, or only its footer is left: no place is known."""
    source = write_rows(tmp_path / "in.jsonl", ["nope", {"prompt": "y"}])
    echo(source, tmp_path / "o.parquet")
    capsys.readouterr()
    shutil.rmtree(tmp_path / "o.parquet.ckpt")
    assert echo(source, tmp_path / "o.parquet") == 3
    said = capsys.readouterr().err
    assert "next: " in said
    assert f"which: batchgen inspect {tmp_path / 'o.parquet'} --failed" in said


def test_where_rows_are_done_it_is_said_what_mended_ones_and_other_flags_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for good, said, code in (({"prompt": "y"}, True, 4), ({"prompt": 5}, False, 0)):
        out = tmp_path / f"{code}.parquet"
        assert echo(write_rows(tmp_path / "in.jsonl", ["nope", good]), out) == 3
        assert ("an --out of their own" in capsys.readouterr().err) == said
        mended = write_rows(tmp_path / "in.jsonl", [{"prompt": "x"}, {"prompt": "y"}])
        assert echo(mended, out) == code
        capsys.readouterr()


def test_each_kind_of_failure_has_a_next_step() -> None:
    assert set(_ADVICE) == set(ErrorCode)
    assert all(advice_for(str(code)) for code in ErrorCode)


@pytest.mark.parametrize(
    ("origin", "what", "advice"),
    [
        ("a.jsonl:3", "byte 5", "iconv -f LATIN1 -t UTF-8 FILE > rows.jsonl"),
        ("a.jsonl.gz:3", "byte 5", "gzip -dc FILE | iconv -f LATIN1 -t UTF-8 > rows.jsonl"),
        ("a.csv: row 3", "column 'x'", "iconv -f LATIN1 -t UTF-8 FILE > rows.csv"),
        ("A.TSV.zst: row 3", "column 'x'", "zstd -dc FILE | iconv -f LATIN1 -t UTF-8 > rows.tsv"),
        ("a.parquet:3", "column 'x'", "write that column as text"),
    ],
)
def test_advice_on_text_of_another_encoding_fits_the_file(
    origin: str, what: str, advice: str
) -> None:
    given = advice_for("invalid_row", f"{what} is not UTF-8", origin)
    assert given.startswith(advice)
