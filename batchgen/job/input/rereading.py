"""An input whose rows were answered, read once more: whether it is the same, and if not, whether
all that changed are rows that failed, which somebody mended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchgen.counts import counted
from batchgen.errors import FingerprintMismatchError
from batchgen.job.input.reader import Reader
from batchgen.job.input_digest import InputCheckpoint, InputDigest, RowSum

__all__ = ["Reread", "reread", "verify"]


def verify(reader: Reader, recorded: InputCheckpoint) -> bool:
    """Check that the input's first rows are those on record; reads them once. Whether more rows are
    behind them.

    FingerprintMismatchError names file and row, as closely as the marks allow.
    """
    read, rows_read, marks = InputDigest(), recorded.rows_read, dict(recorded.marks)
    where, since, here = "", "", ""
    first = 0
    changed = more = False
    for name, number, rows, payload in reader.payloads():
        if more := read.rows == rows_read:
            break
        where, first = (where, first) if where == name else (name, read.rows)
        read.pass_over(rows.digest_bytes(payload))
        here = f"{name}:{number}"
        since = since or here
        if read.rows in marks:
            changed = marks[read.rows] != read.mark()
            since = since if changed else ""
        if changed:
            break
    if changed or (read.rows == rows_read and read.hexdigest() != recorded.digest):
        text = (
            f"the first {counted(rows_read, 'row')} of the input changed, {_between(since, here)}"
        )
    elif read.rows < rows_read:
        last = f"{where} (rows {first:,} to {read.rows:,})" if where else "no input"
        text = (
            f"the input has {counted(read.rows, 'row')} left of the {rows_read:,} read before: "
            f"{last}"
        )
    else:
        return more
    hint = "restore the input, give another --out, or start afresh with --overwrite"
    raise FingerprintMismatchError(text, hint)


def _between(since: str, here: str) -> str:
    """From the first row after the last mark that agreed to the first place that does not."""
    return f"at {here}" if since in ("", here) else f"between {since} and {here}"


@dataclass(frozen=True, slots=True)
class Reread:
    """The rows as they are now. `mended`: so many are others than they were. `more`: rows came
    behind them."""

    read: InputCheckpoint
    mended: int
    more: bool


def reread(reader: Reader, recorded: InputCheckpoint, failed: Mapping[int, bytes]) -> Reread | None:
    """The rows on record, where those that are not among the `failed` are the same as then; None
    where they are not.

    Raises FingerprintMismatchError where a mended row has the id of one that is kept.
    """
    read, rows_read = InputDigest(), recorded.rows_read
    expected = RowSum(recorded.row_sum)
    mended, ids, more = 0, dict[str, str](), False
    for name, number, rows, payload in reader.payloads():
        index = read.rows
        if more := index == rows_read:
            break
        digest = read.add(rows.digest_bytes(payload))
        if index in failed:
            expected.remove(failed[index])
            expected.add(digest)
            if digest != failed[index]:
                mended += 1
                if row_id := reader.id_of(rows, payload):
                    ids[row_id] = f"{name}:{number}"
    found = read.checkpoint()
    if read.rows < rows_read or found.row_sum != str(expected):
        return None
    _refuse_taken(reader, rows_read, failed, ids)
    return Reread(found, mended, more)


def _refuse_taken(
    reader: Reader, rows_read: int, failed: Mapping[int, bytes], ids: Mapping[str, str]
) -> None:
    """The rows that are kept were served under their ids before the mended ones had any."""
    if not ids:
        return
    for index, (name, number, rows, payload) in enumerate(reader.payloads()):
        if index == rows_read:
            return
        if index not in failed and (row_id := reader.id_of(rows, payload)) in ids:
            raise FingerprintMismatchError(
                f"the row mended at {ids[row_id or '']} has the id of the one at "
                f"{name}:{number}, which is done",
                "give it an id of its own, and run the same command again",
            )
