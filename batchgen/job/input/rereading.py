"""An input whose rows were answered, read once more: whether it is the same, and if not, whether
all that changed are rows that failed, which somebody mended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from batchgen.counts import counted
from batchgen.errors import FingerprintMismatchError
from batchgen.job.input.reader import DIGEST_BYTES, Reader
from batchgen.job.input_marks import Mark, Marks, RowSum, mark_of, row_digest

__all__ = ["Reread", "reread", "verify"]


def verify(reader: Reader, rows_read: int, digest: str, marks: Iterable[Mark] = ()) -> bool:
    """Check that the first `rows_read` rows are those that gave `digest` (and `marks` on the way);
    reads them once. Whether more rows are behind them.

    FingerprintMismatchError names file and row, as closely as the marks allow.
    """
    hash = blake2b(digest_size=DIGEST_BYTES)
    marked = dict(marks)
    count = first = 0
    where, since, here = "", "", ""
    changed = more = False
    for name, number, rows, payload in reader.payloads():
        if more := count == rows_read:
            break
        hash.update(rows.digest_bytes(payload))
        where, first = (where, first) if where == name else (name, count)
        count += 1
        here = f"{name}:{number}"
        since = since or here
        if count in marked:
            changed = marked[count] != mark_of(hash)
            since = since if changed else ""
        if changed:
            break
    if changed or (count == rows_read and hash.hexdigest() != digest):
        text = (
            f"the first {counted(rows_read, 'row')} of the input changed, {_between(since, here)}"
        )
    elif count < rows_read:
        last = f"{where} (rows {first:,} to {count:,})" if where else "no input"
        text = (
            f"the input has {counted(count, 'row')} left of the {rows_read:,} read before: {last}"
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

    digest: str
    marks: tuple[Mark, ...]
    row_sum: str
    mended: int
    more: bool


def reread(
    reader: Reader, rows_read: int, row_sum: str, failed: Mapping[int, bytes]
) -> Reread | None:
    """The first `rows_read` rows, where those that are not among the `failed` are the same as when
    all had this sum; None where they are not.

    Raises FingerprintMismatchError where a mended row has the id of one that is kept.
    """
    hash, marks = blake2b(digest_size=DIGEST_BYTES), Marks()
    all_rows, kept, expected = RowSum(), RowSum(), RowSum(row_sum)
    for digest in failed.values():
        expected.remove(digest)
    mended, ids = 0, dict[str, str]()
    count, more = 0, False
    for name, number, rows, payload in reader.payloads():
        if more := count == rows_read:
            break
        hash.update(content := rows.digest_bytes(payload))
        all_rows.add(digest := row_digest(count, content))
        if count not in failed:
            kept.add(digest)
        elif digest != failed[count]:
            mended += 1
            if row_id := reader.id_of(rows, payload):
                ids[row_id] = f"{name}:{number}"
        count += 1
        if count == marks.next:
            marks.take(count, hash)
    if count < rows_read or str(kept) != str(expected):
        return None
    _refuse_taken(reader, rows_read, failed, ids)
    return Reread(hash.hexdigest(), marks(), str(all_rows), mended, more)


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
