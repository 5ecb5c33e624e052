"""An output as lines of JSON: a rendering of the same rows as Parquet, made whole by one rename.

Beside the Parquet record lies `rendered.json`: which file was made of it, so that a crash between
the rename and the manifest is told from somebody else's file.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.form import compression_of
from batchgen.job.stopping.stop_check import StopCheck
from batchgen.job.stored_types import plain_values
from batchgen.job.stores.files import Guard, atomic_file, unwritable, write_atomic
from batchgen.job.stores.places import Place, arrow_source, opened

__all__ = ["json_line", "plain", "rendered_rows", "write_json_lines"]

_BATCH_ROWS = 1024
_BLOCK_BYTES = 8 << 20
_RENDERED = "rendered.json"


def json_line(row: dict[str, Any]) -> str:
    """A row as strict JSON: bytes and times as text, numbers that JSON lacks as null."""
    try:
        return json.dumps(row, ensure_ascii=False, default=plain, allow_nan=False)
    except ValueError:
        text = json.dumps(row, ensure_ascii=False, default=plain)
        finite = json.loads(text, parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value that JSON has no type for, as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def write_json_lines(
    out: Place,
    record: Place,
    job: tuple[str, int],
    may_write: Guard,
    guard: Guard,
    check_stop: StopCheck,
) -> None:
    """Write the rows of `record` as `out`. `job`: its id, and how many input rows it has;
    `may_write` looks at what has the name before it is replaced."""
    with atomic_file(out, "final") as file, unwritable("the output", out):
        with pa.output_stream(str(file.temporary), compression=compression_of(out)) as stream:
            whole = pq.ParquetFile(arrow_source(record))
            names = whole.schema_arrow.names
            for batch in whole.iter_batches(_BATCH_ROWS):
                check_stop()
                columns = map(plain_values, batch.columns)
                rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
                lines = [json_line(row) + "\n" for row in rows]
                stream.write("".join(lines).encode("utf-8", "replace"))
        made = {"job_id": job[0], "rows": job[1], **_content(file.temporary)}
        may_write()
        data = json.dumps([made, *_made(record)[:1]]).encode()
        write_atomic(record.with_name(_RENDERED), data, "rendered", guard)
        file.commit(guard)


def rendered_rows(out: Place, record: Place, job_id: str) -> int | None:
    """Input rows of the lines at `out`; None where that job did not write them, or not these."""
    made = next((made for made in _made(record) if made["job_id"] == job_id), None)
    if made is None or not out.is_file():
        return None
    if out.stat().st_size != made["size"] or _content(out)["sha256"] != made["sha256"]:
        return None
    rows: int = made["rows"]
    return rows


def _made(record: Place) -> list[dict[str, Any]]:
    """The last file that was made, and the one before: it stands until a rename is through."""
    try:
        made: list[dict[str, Any]] = json.loads(record.with_name(_RENDERED).read_bytes())
    except (OSError, ValueError):
        return []
    return [one for one in made if {"job_id", "rows", "size", "sha256"} <= one.keys()]


def _content(path: Place) -> dict[str, Any]:
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}
