"""An output in another format, in its own order: OpenAI's batch lines, JSON lines, CSV.

`follow` reads a running job's parts: a row's line is written as soon as all rows before it are
done, so that the lines grow in the output's order.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, TextIO

from batchgen.errors import InputUnreadableError, StoppedError
from batchgen.job.output.json_lines import json_line, plain
from batchgen.job.output.provenance import footer_manifest
from batchgen.job.storage.layout import Layout, list_parts
from batchgen.job.storage.manifest import Manifest, is_complete
from batchgen.job.stores.places import Place
from batchgen.job.verbs.openai_lines import COLUMNS, batch_line
from batchgen.job.verbs.row_files import no_output, open_rows, reading
from batchgen.job.verbs.status import status_of

__all__ = ["follow_openai", "to_csv", "to_jsonl", "to_openai"]

_BATCH_ROWS = 1024
_POLL_S = 0.5
Row = dict[str, Any]
Write = Callable[[str, bool], None]
"""Takes a line and whether its row failed."""


def to_openai(out: Place, folder: Place, write: Write) -> None:
    """Every row of a finished output, whose checkpoint folder knows the model where the file does
    not. InputUnreadableError where it cannot be read."""
    manifest = footer_manifest(out) or Manifest.read(folder / "manifest.json")
    _write_lines(_rows(out, COLUMNS), _model_of(manifest), write)


def follow_openai(out: Place, folder: Place, write: Write) -> None:
    """The rows that are done so far, and the others as they come, until the job is complete.

    StoppedError where the job ends without being complete.
    """
    layout = Layout(folder, out)
    waiting: dict[int, list[Row]] = {}
    seen: set[Place] = set()
    next_index = 0
    while True:
        manifest = Manifest.read(layout.manifest)
        model = _model_of(manifest)
        if manifest is not None and manifest.is_complete:
            rest = (row for row in _rows(layout.target, COLUMNS) if row["index"] >= next_index)
            return _write_lines(rest, model, write)
        stopped = manifest is not None and status_of(out, folder).state != "running"
        for path in [path for path in list_parts(layout.parts) if path not in seen]:
            with suppress(InputUnreadableError):  # merged away: the output has its rows then
                for index, rows in groupby(_rows(path, COLUMNS), itemgetter("index")):
                    waiting[index] = list(rows)
                seen.add(path)
        while next_index in waiting:
            _write_lines(iter(waiting.pop(next_index)), model, write)
            next_index += 1
        if stopped and not is_complete(layout.manifest):
            text = f"the job of {out} stopped; its first {next_index:,} rows were written"
            raise StoppedError(text, "continue the job, then export again")
        time.sleep(_POLL_S)


def to_jsonl(out: Place, write: Write) -> None:
    """Every column of every row."""
    for row in _rows(out, None):
        write(json_line(row), row["status"] != "ok")


def to_csv(out: Place, file: TextIO) -> None:
    """Every column, nested values as JSON text."""
    writer: Any = None
    for row in _rows(out, None):
        if writer is None:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})
    if writer is None:
        csv.writer(file).writerow(open_rows(out).names)


def _model_of(manifest: Manifest | None) -> str:
    return str(manifest.facts.get("model", "")) if manifest else ""


def _write_lines(rows: Iterator[Row], model: str, write: Write) -> None:
    for _, samples in groupby(rows, itemgetter("index")):
        line = batch_line(list(samples), model)
        failed = line["response"]["status_code"] != 200
        write(json.dumps(line, ensure_ascii=False), failed)


def _rows(path: Place, columns: Sequence[str] | None) -> Iterator[Row]:
    file = open_rows(path)
    with reading(path, path):
        names = file.names
        wanted = names if columns is None else [name for name in columns if name in names]
        if "status" not in names and file.num_rows:
            raise no_output(path, names)
        for values in file.batches(wanted, _BATCH_ROWS):
            for row in zip(*values, strict=True):
                yield dict(zip(wanted, row, strict=True))


def _cell(value: Any) -> Any:
    if isinstance(value, list | Mapping):
        return json.dumps(value, ensure_ascii=False, default=plain)
    return value if value is None or isinstance(value, str | int | float) else plain(value)
