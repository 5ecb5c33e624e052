"""Which LoRA adapter a row uses: its name in the row, and the one that it is for the engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.model.adapters import BASE
from batchgen.job.quoting import shown

__all__ = ["ADAPTER", "settled_adapter"]

ADAPTER = "adapter"


def settled_adapter(params: SamplingParams, names: Collection[str]) -> SamplingParams:
    """With the adapter's name as the engine knows it: the only one of a job is part of the model.

    `names`: of the job's adapters. RowError for a name that is none of them.
    """
    own = params.adapter
    if not own:
        return params
    if (own == BASE and len(names) > 1) or names == {own}:
        return replace(params, adapter="")
    if not names:
        text = f"{ADAPTER} {shown(own)}: no --adapter is given"
        raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)
    if own not in names:
        text = f"{ADAPTER} {shown(own)} is none of those given: {', '.join(sorted(names))}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    return params
