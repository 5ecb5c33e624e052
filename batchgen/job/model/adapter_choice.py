"""Which LoRA adapter a row uses: its name in the row, and the one that it is for the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.model.adapters import BASE
from batchgen.job.quoting import shown

__all__ = ["ADAPTER", "adapter_of_body", "read_adapter", "settled_adapter"]

ADAPTER = "adapter"


def read_adapter(value: Any) -> str:
    """A row's `adapter`; ValueError says what it must be."""
    if not isinstance(value, str):
        raise ValueError("the name of an --adapter")
    return value


def adapter_of_body(body: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """An OpenAI row names its adapter as its model."""
    model = body.get("model")
    return {ADAPTER: model} if isinstance(model, str) and model in names else {}


def settled_adapter(params: SamplingParams, names: Collection[str]) -> SamplingParams:
    """With the adapter's name as the engine knows it: the only one of a job is part of the model.

    `names`: of the job's adapters. RowError for a name that is none of them.
    """
    own = params.adapter
    if not own:
        return params
    if (own == BASE and len(names) > 1) or names == {own}:
        return replace(params, adapter="")
    if own in names:
        return params
    if not names:
        text = f"{ADAPTER} {shown(own)}: no --adapter is given"
        raise RowError(ErrorCode.UNSUPPORTED_SETTING, text)
    text = f"{ADAPTER} {shown(own)} is none of those given: {', '.join(sorted(names))}"
    raise RowError(ErrorCode.INVALID_PARAM, text)
