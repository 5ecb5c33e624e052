"""What makes two jobs the same, and what is said when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from echo_runs import prompts, write_rows

from batchgen.__main__ import main
from batchgen.errors import FingerprintMismatchError
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.manifest import Manifest, fingerprint_diff


def test_the_difference_is_told_field_by_field() -> None:
    before = {"sampling": {"temperature": 0.7, "top_p": 1.0}, "seed": 0, "model": {"sha": "a"}}
    now = {"sampling": {"temperature": 0.9, "top_p": 1.0}, "seed": 0, "columns": ["x"]}
    assert fingerprint_diff(before, now) == [
        'columns: (absent) -> ["x"]',
        'model.sha: "a" -> (absent)',
        "sampling.temperature: 0.7 -> 0.9",
    ]


def test_a_fingerprint_equals_itself_after_json() -> None:
    value = {"stop": ("a", "b"), "path": Path("x"), "none": None, "nested": {"t": (1, 2)}}
    manifest = Manifest.from_json(Manifest(value).to_json())
    assert fingerprint_diff(manifest.fingerprint, value) == []


def test_null_and_absent_are_different() -> None:
    assert fingerprint_diff({"template": None}, {}) == ["template: null -> (absent)"]


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    manifest = Manifest({"a": 1}, {"device": "cpu"}, total_rows=9, state="complete")
    manifest.input = InputCheckpoint(9, "d", ({"name": "a.jsonl", "size": 3},))
    manifest.totals = FinalReport(rows=9, error_codes={"oom": 1})
    manifest.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == manifest


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    text = Manifest({"a": 1}).to_json().replace("{", '{"later": 1, ', 1)
    assert Manifest.from_json(text).fingerprint == {"a": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"facts": {}}'])
def test_a_damaged_manifest_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(FingerprintMismatchError, match="cannot be read") as refused:
        Manifest.read(path)
    assert refused.value.hint is not None


@pytest.mark.parametrize("verb", [("status",), ("run", "--retry", "failed"), ("run",), ("merge",)])
def test_a_checkpoint_of_a_newer_version_is_left_alone(
    tmp_path: Path, verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it means by what lies there, this version would misread it."""
    out, source = tmp_path / "o.parquet", write_rows(tmp_path / "in.jsonl", prompts(3))
    run = ["run", "-i", str(source), "-o", str(out), "--engine", "echo", "-q"]
    assert main(run) == 0
    folder = tmp_path / "o.parquet.ckpt"
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = [*run, *verb[1:]] if verb[0] == "run" else [verb[0], str(out)]
    assert main(words) == 4
    said = capsys.readouterr().err
    assert f"{folder} is of a newer batchgen: its manifest has version 2" in said
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path in before}


def test_the_footer_names_no_run_or_host() -> None:
    manifest = Manifest({"a": 1}, runs=[{"run_id": "secret-run"}])
    assert "secret-run" not in manifest.footer_json()
