"""`Completions`: a class for `ray.data.Dataset.map_batches`. Each actor holds one loaded model.

    from batchgen.cluster.ray import Completions

    rows.map_batches(
        Completions,
        fn_constructor_kwargs={"model": "Qwen/Qwen3-0.6B", "max_tokens": 64},
        concurrency=(1, 8), num_gpus=1, batch_size=512, batch_format="pyarrow",
    )

Ray Data keeps no order by itself and computes a block again where an actor died. A row needs an
`id`: random draws are keyed by it, so a row that is computed again, in another batch or by another
actor, gets the same completion. Ray's own choice of batches, NumPy, has no null for numbers: one
makes floats of a whole column, and ids that are floats are refused.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

import batchgen
from batchgen.errors import UsageError
from batchgen.job.fields.row_ids import IdColumns

__all__ = ["Completions"]

_COLUMNS = {
    "sample": pa.int32(),
    "status": pa.string(),
    "completion": pa.string(),
    "finish_reason": pa.string(),
    "error_code": pa.string(),
    "error_message": pa.string(),
    "prompt_tokens": pa.int32(),
    "completion_tokens": pa.int32(),
}
"""What is added to a row's own columns; a row with n > 1 becomes n rows."""


class Completions:
    """Options are those of `batchgen.LLM`. Takes and gives batches in NumPy, pandas or Arrow."""

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self._llm = batchgen.LLM(model, **options)
        self._id_columns = IdColumns.of(options.get("id_column", "id")).names

    def __call__(self, batch: Any) -> pa.Table:
        """The batch with its completions. Raises UsageError where its rows have no id."""
        table = _as_table(batch)
        for name in self._id_columns:
            if name not in table.column_names:
                raise UsageError(
                    f"the rows have no column {name!r}: draws are keyed by it",
                    "add one, such as a running number, before map_batches",
                )
        added: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        places: list[int] = []
        for result in self._llm.generate(table.to_pylist()):
            places.append(result.index)
            for name, values in added.items():
                values.append(getattr(result, name))
        kept = table.drop_columns([name for name in _COLUMNS if name in table.column_names])
        kept = kept.take(pa.array(places, pa.int64()))
        for name, kind in _COLUMNS.items():
            kept = kept.append_column(name, pa.array(added[name], kind))
        return kept


def _as_table(batch: Any) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if hasattr(batch, "to_records"):  # a pandas DataFrame
        return pa.Table.from_pandas(batch, preserve_index=False)
    # NumPy's numbers have no null and Ray writes NaN for one: a setting not made, not a wrong one
    return pa.table(
        {name: pa.array(list(values), from_pandas=True) for name, values in batch.items()}
    )
