"""A run's answers against the right ones that its input had: whole rows, and field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchgen.errors import UsageError
from batchgen.job.stores.places import Place
from batchgen.job.verbs.compare import Difference
from batchgen.job.verbs.row_files import RowFile, open_rows

__all__ = ["Judgement", "judge"]

_BATCH_ROWS = 8_192
_ABSENT = object()
"""No field of that name in the answer: never right, not even where the gold is null."""


@dataclass(slots=True)
class Judgement:
    """`fields`: right ones by column. `wrong`: the first rows that are not wholly right, their
    key and, for each field that is wrong, the right value and what the answer has."""

    rows: int = 0
    right: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    wrong: list[Difference] = field(default_factory=list)

    @property
    def percent_right(self) -> float:
        """Rows wholly right in a hundred; of no rows 0."""
        return 100.0 * self.right / max(1, self.rows)


def judge(path: Place, columns: Sequence[str], on: str = "index", show: int = 10) -> Judgement:
    """Compare each completion with the row's `columns` of right answers.

    A completion that is a JSON object is compared field by field, a column with the field of its
    name; one column may also stand against the whole text. An error row is wrong in every field.

    Raises InputUnreadableError, and UsageError for a column that is not there.
    """
    file = open_rows(path)
    _check(file, (on, *columns))
    result = Judgement(fields=dict.fromkeys(columns, 0))
    for key, completion, gold in _rows(file, on, columns):
        said = _said(completion, columns)
        wrong = {
            name: (right, None if said[name] is _ABSENT else said[name])
            for name, right in zip(columns, gold, strict=True)
            if not _same(said[name], right)
        }
        result.rows += 1
        result.right += not wrong
        for name in columns:
            result.fields[name] += name not in wrong
        if wrong and len(result.wrong) < show:
            result.wrong.append(Difference(key, wrong))
    return result


def _check(file: RowFile, names: Sequence[str]) -> None:
    for name in names:
        if name not in file.names:
            raise UsageError(
                f"column {name!r} is not in the output",
                f"there are: {list(file.names)}; the input's come along by --keep-columns",
            )


def _rows(
    file: RowFile, on: str, columns: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], str | None, tuple[Any, ...]]]:
    """Key, completion and gold values of each row."""
    for keys, samples, texts, *gold in file.batches(
        (on, "sample", "completion", *columns), _BATCH_ROWS
    ):
        for row in zip(keys, samples, texts, *gold, strict=True):
            yield row[:2], row[2], row[3:]


def _said(completion: str | None, columns: Sequence[str]) -> dict[str, Any]:
    """The answer's value of each column."""
    if completion is None:
        return dict.fromkeys(columns, _ABSENT)
    value = _parsed(completion)
    if isinstance(value, dict):
        return {name: value.get(name, _ABSENT) for name in columns}
    if len(columns) == 1:
        return {columns[0]: completion.strip()}
    return dict.fromkeys(columns, _ABSENT)


def _same(said: Any, gold: Any) -> bool:
    """Equal, or equal once the gold text is read as JSON: kept columns of JSON lines are text."""
    if isinstance(gold, str) and not isinstance(said, str):
        gold = _parsed(gold)
    if said is _ABSENT or gold is _ABSENT:
        return False
    if isinstance(said, bool) or isinstance(gold, bool):
        return said is gold
    if isinstance(said, str) and isinstance(gold, str):
        return said == gold.strip()
    return bool(said == gold)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _ABSENT
