"""docs/contract.md says of the checkpoint folder what is there, and nothing is there of which it is
silent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, prompts, write_rows

PAGE = (Path(__file__).parents[1] / "batchgen/docs/contract.md").read_text(encoding="utf-8")
OWN_FORMS = {
    "ATTEMPT": r"\d+",
    "SEQ": r"\d+",
    "CRC": "[0-9a-f]{8}",
    "IofN": r"\d+of\d+",
    "N": r"\d+",
}


def patterns() -> list[re.Pattern[str]]:
    """The first column: `name` or several, as patterns of paths below the folder."""
    cells = re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(names) > 10
    return [_pattern(name) for name in names]


def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name).replace(r"\*", ".*").replace(r"\[IofN\-\]", r"(\d+of\d+-)?")
    for word, form in OWN_FORMS.items():
        text = re.sub(rf"\b{word}\b", lambda _, form=form: form, text)
    return re.compile(text + (".*" if name.endswith("/") else ""))


def unnamed(folder: Path) -> list[str]:
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    below = [re.sub(r"^shards/\d+of\d+/", "", str(path)) for path in found]
    return [path for path in below if not any(known.fullmatch(path) for known in patterns())]


def shown_state(folder: Path) -> str:
    """What the page's own example prints."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was killed when all its rows were done, and a shard of another."""
    folder = tmp_path_factory.mktemp("killed")
    rows = write_rows(folder / "in.jsonl", prompts(300))
    words = ("run", "-q", "--engine", "echo", "--checkpoint-every", "100", "--in", rows, "--out")
    done = batchgen(*words, folder / "out.parquet", BATCHGEN_FAULT="kill:at=final.write")
    assert done.returncode == 137 or done.returncode == -9, done.stderr
    assert batchgen(*words, folder / "s.parquet", "--shard", "1/2").returncode == 0
    return folder


def test_every_file_there_is_named_on_the_page(killed: Path) -> None:
    for folder in (killed / "out.parquet.ckpt", killed / "s.parquet.ckpt"):
        assert unnamed(folder) == []
    (killed / "out.parquet.ckpt" / "new.txt").touch()
    assert unnamed(killed / "out.parquet.ckpt") == ["new.txt"]


def test_parts_are_what_the_page_promises(killed: Path) -> None:
    parts = sorted((killed / "out.parquet.ckpt" / "parts").glob("*.parquet"))
    tables = [pq.read_table(part, columns=["index", "sample"]).to_pylist() for part in parts]
    for part, rows in zip(parts, tables, strict=True):
        assert part.name.split(".")[1] == f"{zlib.crc32(part.read_bytes()):08x}"
        assert rows == sorted(rows, key=lambda row: (row["index"], row["sample"]))
    assert sorted(row["index"] for rows in tables for row in rows) == list(range(300))
    jobs = {json.loads(pq.read_metadata(part).metadata[b"batchgen.part"])["job"] for part in parts}
    assert len(jobs) == 1


def test_the_example_tells_how_far_a_run_is(killed: Path) -> None:
    assert shown_state(killed) == "running 300 of None"


def test_the_manifest_has_the_fields_that_are_promised(killed: Path) -> None:
    manifest = json.loads((killed / "out.parquet.ckpt" / "manifest.json").read_text())
    (text,) = re.findall(r"^Of `manifest.json`: .*?\n\n", PAGE, flags=re.MULTILINE | re.DOTALL)
    promised = {
        "version",
        "job_id",
        "state",
        "total_rows",
        "totals",
        "runs",
        "fingerprint",
        "facts",
    }
    assert promised <= set(re.findall(r"`(\w+)`", text))
    assert promised <= set(manifest)
    assert manifest["version"] == 1
    assert set(manifest["runs"][0]) == {"attempt", "run_id", "started_at", "rows_expected"}
