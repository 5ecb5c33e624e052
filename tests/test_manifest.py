"""What makes two jobs the same, and what is said when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_the_footer_names_no_run_or_host() -> None:
    manifest = Manifest({"a": 1}, runs=[{"run_id": "secret-run"}])
    assert "secret-run" not in manifest.footer_json()
