"""A layer called twice in one step: once for its keys and values, once for the tokens that count.

The first call ends at attention, by an exception, and is never compiled: a compilation of its own
would take longer than a job of a few million tokens gains. The second is a step of one token a row,
over the cache that the first has written. Calls that are no step of the engine, or whose logits are
asked of most tokens, run the layer as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from batchgen.engine.model.binding import CALL_ATTRIBUTE, AttentionCall, StepContext

__all__ = ["LastLayer", "token_dims"]


class _Stored(Exception):
    """A layer's keys and values are written: the rest of the call is not wanted."""


class _StoreAndLeave:
    """Hangs on the attention's module while a layer runs eagerly for its keys and values."""

    def __init__(self, call: AttentionCall) -> None:
        self._call = call

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
        """Always raises _Stored."""
        self._call.store(key, value)
        raise _Stored


class LastLayer:
    """Stands where a compiled layer would (`nn.Module._compiled_call_impl`), so that the layer
    keeps its place, name and attributes.

    `token_dims`: of each tensor that the layer is called with, which dimension counts tokens.
    """

    def __init__(
        self, layer: nn.Module, holder: nn.Module, step: StepContext, dims: Sequence[int | None]
    ) -> None:
        self._layer = layer
        self._holder = holder
        self._step = step
        self._dims = tuple(dims)
        self._storing = _StoreAndLeave(getattr(holder, CALL_ATTRIBUTE))
        self.run: Callable[..., Any] = layer._call_impl
        """The whole layer, compiled or as it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns, of the tokens whose logits are asked."""
        whole, ends = self._step.metadata, self._step.ends
        if ends is None:
            return self.run(*args, **kwargs)
        self._store(args, kwargs)
        args, kwargs = self._picked(args, kwargs, ends.indices)
        self._step.metadata = ends.metadata
        try:
            return self.run(*args, **kwargs)
        finally:
            self._step.metadata = whole

    def _store(self, args: Any, kwargs: Any) -> None:
        """Write keys and values of all tokens."""
        call = getattr(self._holder, CALL_ATTRIBUTE)
        setattr(self._holder, CALL_ATTRIBUTE, self._storing)
        try:
            self._layer._call_impl(*args, **kwargs)
        except _Stored:
            return
        finally:
            setattr(self._holder, CALL_ATTRIBUTE, call)
        raise RuntimeError("the last layer did not attend")

    def _picked(self, args: Any, kwargs: Any, indices: Tensor) -> tuple[Any, Any]:
        leaves, form = pytree.tree_flatten((args, kwargs))
        picked = [
            leaf if dim is None else leaf.index_select(dim, indices)
            for leaf, dim in zip(leaves, self._dims, strict=True)
        ]
        found: tuple[Any, Any] = pytree.tree_unflatten(picked, form)
        return found


def token_dims(calls: Sequence[tuple[int, Any]]) -> list[int | None] | None:
    """Which dimension of each tensor counts tokens, None for other leaves of the arguments.

    `calls`: (number of tokens, (args, kwargs)) of a layer's calls with unlike numbers. None where
    calls differ in more than their tokens, or it cannot be told.
    """
    forms, each = [], []
    for num_tokens, given in calls:
        leaves, form = pytree.tree_flatten(given)
        forms.append(form)
        each.append([_dims_of(leaf, num_tokens) for leaf in leaves])
    if any(form != forms[0] for form in forms):
        return None
    common = [set.intersection(*dims) for dims in zip(*each, strict=True)]
    if any(len(dims) > 1 for dims in common):
        return None
    return [min(dims, default=None) for dims in common]


def _dims_of(leaf: Any, num_tokens: int) -> set[int]:
    if not isinstance(leaf, torch.Tensor):
        return set()
    return {dim for dim, size in enumerate(leaf.shape) if size == num_tokens}
