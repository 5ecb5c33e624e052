"""The journal: which rows were begun in which run, and the tokens of rows a run left in flight.

    begun-<attempt>.log          24-byte records, appended once a batch (`begun_log`)
    inflight-<attempt>.<birth of the job>.<crc>.json

A record is a range of row indices, the attempt that began them, and a check word; a torn or changed
record is skipped. A run that ends by itself, politely or by an error that it tells, says so in a
last record; where that is missing the run died with those rows in hand (`deaths`). Opening a
journal carries over what still matters (rows begun and not done) into the new attempt's file and
removes the older ones, so neither the folder nor memory grows with runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from batchgen.job.row_counts import RowCounts
from batchgen.job.storage.begun_log import BegunLog, open_log
from batchgen.job.storage.layout import JOURNALS, SAVED_TOKENS
from batchgen.job.stores.files import Guard, checked_name, read_checked, write_atomic
from batchgen.job.stores.places import Place, all_of, matching, readable, remove_all

__all__ = ["Inflight", "Journal", "write_attempts"]

Inflight = dict[tuple[int, int], list[int]]
"""(index, sample) -> the token ids generated so far."""

Indices = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]
DoneFilter = Callable[[Indices], npt.NDArray[np.bool_]]
"""[num_rows] indices -> whether each row is done."""

_RECORD = np.dtype([("start", "<i8"), ("stop", "<i8"), ("attempt", "<i4"), ("check", "<u4")])
_MAX_RANGE = 1 << 24
_CHUNK_ROWS = 1 << 22
_CHECK_SEED = 0x9E3779B9
_END = -1
"""In the place of rows: the attempt ended by itself."""


class Journal:
    """Rows begun, for one attempt at a time."""

    def __init__(
        self,
        folder: Place,
        attempt: int,
        birth: str,
        is_done: DoneFilter,
        guard: Guard,
        others: Sequence[Place] = (),
    ) -> None:
        """`birth` is the job's: saved tokens of another, of other rows perhaps, are not taken.
        `others`: folders of runs that split the same rows otherwise; read, never changed.
        `is_done` tells rows that are done or not of this run."""
        self._folder = folder
        self._attempt = attempt
        self._birth = birth
        self._guard = guard
        older = _older(folder, attempt)
        carried = _carried(older, is_done)
        found = [carried]
        for other in others:
            with suppress(FileNotFoundError):  # a run there has just carried it over
                found.append(_carried(matching(other, JOURNALS), is_done))
        self._begun_before = RowCounts.of(_rows_begun(records) for records in found)
        deaths = RowCounts.of(_rows_begun(_died(records)) for records in found)
        self._deaths = dict(zip(deaths.rows.tolist(), deaths.counts.tolist(), strict=True))
        self.crashed = False
        """Set it when the engine broke down: this run then counts as one that died."""
        # The new file holds all that matters of the older ones before the first of them goes: a
        # death in between leaves records twice, and an attempt's rows count once.
        self._log: BegunLog | None = open_log(folder, attempt, carried.tobytes(), guard)
        remove_all(older)
        self._inflight = _load_inflight(folder, birth, is_done)
        for other in others:
            with suppress(FileNotFoundError):
                self._inflight = _load_inflight(other, birth, is_done) | self._inflight

    def begin(self, indices: Sequence[int]) -> int:
        """Note that these rows begin now: one append; how many had begun in an earlier run."""
        if not len(indices):
            return 0
        rows = np.asarray(indices, dtype=np.int64)
        assert self._log is not None, "closed"
        self._log.append(_records(rows, self._attempt).tobytes())
        return int(self._begun_before.contains_array(rows).sum())

    def attempt(self, index: int) -> int:
        """The runs in which the row was begun, this one included."""
        return self._begun_before.get(index) + 1

    @property
    def deaths(self) -> Mapping[int, int]:
        """Rows not done -> in how many runs they were in hand that died."""
        return self._deaths

    def inflight_tokens(self, index: int, sample: int) -> list[int]:
        """Tokens an earlier run saved for this sample; [] where none were."""
        return self._inflight.get((index, sample), [])

    @property
    def num_inflight_tokens(self) -> int:
        """Tokens saved by earlier runs, over all rows."""
        return sum(map(len, self._inflight.values()))

    def save_inflight(self, tokens: Inflight, is_done: DoneFilter) -> None:
        """Keep these tokens, and those of earlier runs whose rows are neither done nor in here."""
        rows = {index for index, _ in tokens}
        kept = {key: ids for key, ids in self._inflight.items() if key[0] not in rows}
        self._inflight = _without_done(kept | tokens, is_done)
        data = json.dumps([[*key, ids] for key, ids in self._inflight.items()]).encode()
        older = matching(self._folder, SAVED_TOKENS)
        stem = f"inflight-{self._attempt:06d}.{self._birth}"
        path = self._folder / checked_name(stem, data, "json")
        write_atomic(path, data, "inflight", self._guard)
        remove_all(old for old in older if old != path)

    def close(self) -> None:
        """Note that the run ended by itself; further calls to `begin` fail."""
        log, self._log = self._log, None
        if log is not None:
            log.close(b"" if self.crashed else _end_of(self._attempt).tobytes())


def _load_inflight(folder: Place, birth: str, is_done: DoneFilter) -> Inflight:
    loaded: Inflight = {}
    for path in sorted(matching(folder, SAVED_TOKENS), key=_written):
        job = path.name.split(".")[1:-2]  # an earlier version named none
        data = read_checked(path) if job in ([], [birth]) else None
        if data is not None:
            loaded |= {(index, sample): ids for index, sample, ids in json.loads(data)}
    return _without_done(loaded, is_done)


def write_attempts(folder: Place, attempts: RowCounts, guard: Guard) -> None:
    """Note that rows were begun in so many runs, all of which ended: for rows taken up again."""
    records = [_EMPTY]
    for number in range(1, int(attempts.counts.max(initial=0)) + 1):
        rows = attempts.rows[attempts.counts >= number]
        records += [_records(rows, -number), _end_of(-number)]
    if len(attempts):
        write_atomic(
            folder / "begun-000000.log", np.concatenate(records).tobytes(), "journal", guard
        )


_EMPTY: Records = np.empty(0, dtype=_RECORD)


def _records(indices: Indices, attempt: int) -> Records:
    """Indices as records, one a run of consecutive ones."""
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = indices[np.concatenate([[0], cuts])]
    lasts = indices[np.concatenate([cuts - 1, [len(indices) - 1]])]
    records = np.empty(len(starts), dtype=_RECORD)
    records["start"], records["stop"], records["attempt"] = starts, lasts + 1, attempt
    records["check"] = _check_word(records)
    return records


def _check_word(records: Records) -> npt.NDArray[np.uint32]:
    mixed = records["start"] * 31 + records["stop"] * 17 + records["attempt"] + _CHECK_SEED
    word: npt.NDArray[np.uint32] = (mixed ^ (mixed >> 32)).astype(np.uint32)
    return word


def _read(path: Place) -> Records:
    """The good records of a journal file. [num_records]"""
    with readable(path):
        data = path.read_bytes()
    records: Records = np.frombuffer(
        data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], _RECORD
    )
    length = records["stop"] - records["start"]
    sane = ((length > 0) & (length <= _MAX_RANGE)) | (records["start"] == _END)
    good = sane & (records["check"] == _check_word(records))
    whole: Records = records[good]
    return whole


def _end_of(attempt: int) -> Records:
    record = np.array([(_END, _END, attempt, 0)], dtype=_RECORD)
    record["check"] = _check_word(record)
    return record


def _carried(paths: Sequence[Place], is_done: DoneFilter) -> Records:
    """What still matters of these files: rows that are not done, and which runs ended."""
    records: Records = np.concatenate([_EMPTY, *all_of(_read, paths)])
    if not len(records):
        return records  # a first run's: what follows imports numpy.ma
    rows = _undone(records[records["start"] != _END], is_done)
    ended = np.intersect1d(records["attempt"][records["start"] == _END], rows["attempt"])
    carried: Records = np.concatenate([rows, *map(_end_of, ended.tolist())])
    return carried


def _died(records: Records) -> Records:
    """Those of the rows whose run did not end by itself."""
    ended = records["attempt"][records["start"] == _END]
    left: Records = records[~np.isin(records["attempt"], ended)]
    return left


def _undone(records: Records, is_done: DoneFilter) -> Records:
    """Records cut down to rows that are not done, each row once an attempt."""
    kept = [_EMPTY]
    for attempt in np.unique(records["attempt"]):
        mine = records[records["attempt"] == attempt]
        chunks = _chunks(mine)
        left = np.unique(np.concatenate([rows[~is_done(rows)] for rows in chunks]))
        if len(left):
            kept.append(_records(left, int(attempt)))
    carried: Records = np.concatenate(kept)
    return carried


def _chunks(records: Records) -> Iterator[Indices]:
    """The rows of all records, some millions at a time. [num_rows]"""
    ends = np.cumsum(records["stop"] - records["start"])
    start = 0
    while start < len(records):
        taken = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, taken + _CHUNK_ROWS)))
        yield _rows(records[start:stop])
        start = stop


def _rows(records: Records) -> Indices:
    """Every row of the records, one after the other. [num_rows]"""
    lengths = records["stop"] - records["start"]
    before = np.cumsum(lengths) - lengths
    rows: Indices = np.repeat(records["start"] - before, lengths) + np.arange(lengths.sum())
    return rows


def _rows_begun(records: Records) -> Indices:
    """Each row as often as attempts began it."""
    return _rows(records[records["start"] != _END])


def _without_done(tokens: Inflight, is_done: DoneFilter) -> Inflight:
    if not tokens:
        return {}
    done = is_done(np.fromiter((index for index, _ in tokens), np.int64, len(tokens)))
    return {key: ids for (key, ids), over in zip(tokens.items(), done, strict=True) if not over}


def _older(folder: Place, attempt: int) -> list[Place]:
    return [path for path in matching(folder, JOURNALS) if int(path.stem[-6:]) < attempt]


def _written(path: Place) -> tuple[int, int]:
    """Order of in-flight files: the attempt, then the time of writing."""
    return int(path.name.split("-")[1].split(".")[0]), path.stat().st_mtime_ns
