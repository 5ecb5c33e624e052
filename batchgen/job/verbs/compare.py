"""Two outputs compared row by row, at some 40 bytes of memory a row whatever the rows hold."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import closing
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
    """A file's keys and values as 64-bit words, sorted by key. All: [num_rows]"""

    keys: Words
    values: Words
    places: Places


def compare(
    a: Place, b: Place, on: str = "index", columns: Sequence[str] = (), show: int = 10
) -> Comparison:
    """Match rows by (`on`, sample) and compare `columns` (default: all but volatile ones).

    Raises InputUnreadableError, and UsageError for a column that is not in both.
    """
    with closing(open_rows(a)) as file_a, closing(open_rows(b)) as file_b:
        key = (on, "sample")
        names = _columns(file_a.names, file_b.names, key, columns)
        left, right = (_digests(file, key, names) for file in (file_a, file_b))
        at_a, at_b = _matches(left, right)
        unequal = left.values[at_a] != right.values[at_b]
        result = Comparison(names)
        result.rows_a, result.rows_b = len(left.keys), len(right.keys)
        result.common = len(at_a)
        if not columns:
            names_a, names_b = {*file_a.names}, {*file_b.names}
            result.columns_only_a = tuple(name for name in file_a.names if name not in names_b)
            result.columns_only_b = tuple(name for name in file_b.names if name not in names_a)
        result.equal = int(len(at_a) - unequal.sum())
        result.only_a = _keys(file_a, key, _unmatched(left, at_a), show)
        result.only_b = _keys(file_b, key, _unmatched(right, at_b), show)
        places = left.places[at_a][unequal], right.places[at_b][unequal]
        result.differences = list(_differences((file_a, file_b), key, names, places, show))
        return result


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


def _digests(file: RowFile, key: tuple[str, str], names: tuple[str, ...]) -> _Digests:
    num_rows = file.num_rows
    keys, values = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint64)
    start = 0
    for columns in file.batches((*key, *names), _BATCH_ROWS):
        stop = start + len(columns[0])
        keys[start:stop] = _words(columns[: len(key)], stop - start)
        values[start:stop] = _words(columns[len(key) :], stop - start)
        start = stop
    order = np.argsort(keys, kind="stable")
    return _Digests(_numbered(keys[order]), values[order], order)


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


def _numbered(keys: Words) -> Words:
    """Sorted keys with repetitions told apart: the second one of a key gets a word of its own."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(keys)]]))
    nth = np.arange(len(keys)) - np.repeat(starts, lengths)
    numbered: Words = keys + nth.astype(np.uint64) * _ODD
    return numbered


def _matches(left: _Digests, right: _Digests) -> tuple[Places, Places]:
    """Places of equal keys in both, in the order of the first file's rows. [num_common] each"""
    _, at_a, at_b = np.intersect1d(left.keys, right.keys, assume_unique=True, return_indices=True)
    order = np.argsort(left.places[at_a], kind="stable")
    return at_a[order], at_b[order]


def _unmatched(digests: _Digests, matched: Places) -> Places:
    """File rows without a partner, in the file's order."""
    lonely = np.ones(len(digests.keys), bool)
    lonely[matched] = False
    places: Places = np.sort(digests.places[lonely])
    return places


def _keys(file: RowFile, key: Sequence[str], places: Places, show: int) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in file.rows(key, places[:show])]


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
