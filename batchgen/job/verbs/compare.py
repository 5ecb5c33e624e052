"""Two outputs compared row by row: where both have the same keys in the same order, batch by batch;
else at some 50 bytes of memory a row, whatever the rows hold."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchgen.errors import UsageError
from batchgen.job.stores.places import Place
from batchgen.job.verbs.row_files import RowFile, open_rows

__all__ = ["Comparison", "Difference", "compare"]

_VOLATILE_COLUMNS = frozenset(
    ["queue_s", "prefill_s", "ttft_s", "decode_s", "tpot_s", "latency_s", "preemptions", "attempt",
     "cached_tokens", "started_at", "finished_at", "run_id"]
)  # fmt: skip
"""Columns in which equal reruns may differ (INTERFACE, Parquet out)."""

_BATCH_ROWS = 8_192
_AT_ONCE = 65_536
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MINUS_ONE, _NAN = "\0-1", "\0nan"

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that differs: its key and, for each column that does, both values."""

    key: tuple[Any, ...]
    columns: dict[str, tuple[Any, Any]]


@dataclass(slots=True)
class Comparison:
    """What two files have in common. `differences`: the first ones, in the order of the first."""

    columns: tuple[str, ...]
    columns_only_a: tuple[str, ...] = ()
    columns_only_b: tuple[str, ...] = ()
    rows_a: int = 0
    rows_b: int = 0
    common: int = 0
    equal: int = 0
    only_a: list[tuple[Any, ...]] = field(default_factory=list)
    only_b: list[tuple[Any, ...]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether both have the same columns and rows with the same values."""
        one_sided = self.columns_only_a or self.columns_only_b
        return not one_sided and self.equal == self.rows_a == self.rows_b

    @property
    def percent_equal(self) -> float:
        """Equal rows in a hundred of the larger file's."""
        return 100.0 * self.equal / max(1, self.rows_a, self.rows_b)


@dataclass(frozen=True, slots=True)
class _Digests:
    """A file's keys as 64-bit words, sorted, and where in the file each is; its values as such
    words, in the file's order. All: [num_rows]"""

    keys: Words
    places: npt.NDArray[Any]
    values: Words


def compare(
    a: Place, b: Place, on: str = "index", columns: Sequence[str] = (), show: int = 10
) -> Comparison:
    """Match rows by (`on`, sample) and compare `columns` (default: all but volatile ones).

    Raises InputUnreadableError, and UsageError for a column that is not in both.
    """
    file_a, file_b = open_rows(a), open_rows(b)
    key = (on, "sample")
    names = _columns(file_a.names, file_b.names, key, columns)
    result = Comparison(names, rows_a=file_a.num_rows, rows_b=file_b.num_rows)
    if not columns:
        names_a, names_b = {*file_a.names}, {*file_b.names}
        result.columns_only_a = tuple(name for name in file_a.names if name not in names_b)
        result.columns_only_b = tuple(name for name in file_b.names if name not in names_a)
    unequal = _unequal_in_step(file_a, file_b, key, names, show)
    if unequal is None:
        unequal = _match(result, file_a, file_b, key, names, show)
    else:
        result.common = result.rows_a
    result.equal = result.common - unequal.count
    places = unequal.first_a, unequal.first_b
    result.differences = list(_differences((file_a, file_b), key, names, places, show))
    return result


@dataclass(slots=True)
class _Unequal:
    """Common rows that differ: how many, and the first of them, in the order of the first file."""

    show: int
    count: int = 0
    first_a: Places = field(default_factory=lambda: np.empty(0, np.int64))
    first_b: Places = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, at_a: Places, at_b: Places) -> None:
        """Rows at these places of the files."""
        self.count += len(at_a)
        at_a, at_b = np.append(self.first_a, at_a), np.append(self.first_b, at_b)
        order = np.argsort(at_a, kind="stable")[: self.show]
        self.first_a, self.first_b = at_a[order], at_b[order]


def _unequal_in_step(
    a: RowFile, b: RowFile, key: tuple[str, str], names: tuple[str, ...], show: int
) -> _Unequal | None:
    """None where the files have not the same keys in the same order."""
    if a.num_rows != b.num_rows:
        return None
    found, start = _Unequal(show), 0
    for (keys_a, values_a), (keys_b, values_b) in zip(
        _hashed(a, key, names), _hashed(b, key, names), strict=True
    ):
        if not np.array_equal(keys_a, keys_b):
            return None
        at = np.flatnonzero(values_a != values_b) + start
        if len(at):
            found.add(at, at)
        start += len(keys_a)
    return found


def _match(
    result: Comparison,
    a: RowFile,
    b: RowFile,
    key: tuple[str, str],
    names: tuple[str, ...],
    show: int,
) -> _Unequal:
    """Match rows by key in any order; what has no partner goes into the result."""
    left, right = (_digests(file, key, names) for file in (a, b))
    found, matched = _Unequal(show), np.zeros(len(right.keys), np.bool_)
    only_a = np.empty(0, np.int64)
    for start in range(0, len(left.keys), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        keys, places = left.keys[part], left.places[part].astype(np.int64)
        at = np.searchsorted(right.keys, keys)
        is_common = at < len(right.keys)
        is_common[is_common] = right.keys[at[is_common]] == keys[is_common]
        at = at[is_common]
        matched[at] = True
        only_a = np.sort(np.append(only_a, places[~is_common]))[:show]
        places, others = places[is_common], right.places[at].astype(np.int64)
        differ = left.values[places] != right.values[others]
        result.common += len(at)
        found.add(places[differ], others[differ])
    only_b = np.sort(right.places[~matched])[:show].astype(np.int64)
    result.only_a = _keys(a, key, only_a)
    result.only_b = _keys(b, key, only_b)
    return found


def _columns(
    a: Sequence[str], b: Sequence[str], key: Iterable[str], asked: Sequence[str]
) -> tuple[str, ...]:
    """The columns to compare; those asked for, and the key's, must be in both files."""
    for name in (*key, *asked):
        if name not in a or name not in b:
            where = "both files" if name not in a and name not in b else "one file"
            raise UsageError(f"column {name!r} is missing in {where}", f"there are: {list(a)}")
    both = {*a} & {*b} - _VOLATILE_COLUMNS
    shared = [name for name in a if name in both]
    # Two files matched by id may come from inputs in another order.
    positional = () if "index" in key else ("index",)
    return tuple(asked) or tuple(n for n in shared if n not in (*key, *positional))


def _hashed(
    file: RowFile, key: tuple[str, str], names: tuple[str, ...]
) -> Iterator[tuple[Words, Words]]:
    """Keys and values, so many rows at a time whatever the row groups are: [at most _BATCH_ROWS]"""
    held = [np.empty(0, np.uint64)] * 2
    for columns in file.batches((*key, *names), _BATCH_ROWS):
        count = len(columns[0])
        made = _words(columns[: len(key)], count), _words(columns[len(key) :], count)
        held = [np.append(one, more) for one, more in zip(held, made, strict=True)]
        while len(held[0]) >= _BATCH_ROWS:
            yield held[0][:_BATCH_ROWS], held[1][:_BATCH_ROWS]
            held = [one[_BATCH_ROWS:] for one in held]
    if len(held[0]):
        yield held[0], held[1]


def _digests(file: RowFile, key: tuple[str, str], names: tuple[str, ...]) -> _Digests:
    num_rows = file.num_rows
    keys, values = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint64)
    start = 0
    for some_keys, some_values in _hashed(file, key, names):
        stop = start + len(some_keys)
        keys[start:stop], values[start:stop] = some_keys, some_values
        start = stop
    small = np.uint32 if num_rows < 1 << 32 else np.uint64
    places = np.argsort(keys, kind="stable").astype(small)
    keys = keys[places]
    if _number(keys):
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
    return _Digests(keys, places, values)


def _words(columns: Sequence[list[Any]], num_rows: int) -> Words:
    """One 64-bit word a row. [num_rows]"""
    rows = zip(*map(_hashed_as_equal, columns), strict=True) if columns else [()] * num_rows
    hashes = np.fromiter((hash(_frozen(row)) for row in rows), np.int64, num_rows)
    return hashes.view(np.uint64)


def _hashed_as_equal(column: list[Any]) -> list[Any]:
    """Python hashes -1 as -2, and each NaN as another number: other values stand for these."""
    first = next((value for value in column if value is not None), None)
    if isinstance(first, float):
        column = [_NAN if value != value else value for value in column]
    if -1 in column:
        column = [_MINUS_ONE if value == -1 else value for value in column]
    return column


def _is_equal(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))


def _frozen(row: tuple[Any, ...]) -> Hashable:
    try:
        hash(row)
    except TypeError:
        return repr(row)
    return row


def _number(keys: Words) -> bool:
    """Tell repetitions of sorted keys apart: the second one of a key gets a word of its own.
    Whether there are any; then the keys are not sorted any more."""
    again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    if not len(again):
        return False
    starts = np.concatenate([[True], np.diff(again) != 1])
    first = np.maximum.accumulate(np.where(starts, again, 0))
    keys[again] += (again - first + 1).astype(np.uint64) * _ODD
    return True


def _keys(file: RowFile, key: Sequence[str], places: Places) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in file.rows(key, places)]


def _differences(
    files: tuple[RowFile, RowFile],
    key: tuple[str, str],
    names: tuple[str, ...],
    places: tuple[Places, Places],
    show: int,
) -> Iterator[Difference]:
    columns = list(dict.fromkeys((*key, *names)))
    pairs = [file.rows(columns, at[:show]) for file, at in zip(files, places, strict=True)]
    for a, b in zip(*pairs, strict=True):
        changed = {name: (a[name], b[name]) for name in names if not _is_equal(a[name], b[name])}
        yield Difference(tuple(a[name] for name in key), changed)
