"""What a model's own mask lets a query see, found by asking its mask function.

Some models never tell attention about their sliding window: only their mask has it. transformers
describes masks as functions of (batch, head, query, key), so the window can be read off exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["MaskFunction", "MaskShape", "probe_mask"]

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Visible = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Whether queries see keys, both told by their positions, on the CPU."""


@dataclass(frozen=True, slots=True)
class MaskShape:
    """A causal mask. `exact_length`: the tokens up to which this describes it; None = all."""

    window: int | None = None
    exact_length: int | None = None


def probe_mask(
    function: MaskFunction, length: int, device: torch.device | str = "cpu"
) -> MaskShape | None:
    """The shape of a mask over `length` positions; None if a query sees what is not causal.

    `device`: where tensors that the function holds lie, as a chunked mask's left padding does.
    """

    def visible(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        query, key = (places.to(device) for places in torch.broadcast_tensors(query, key))
        zero = torch.zeros_like(query)
        with _PastTheTokens():
            return function(zero, zero, query, key).cpu()

    reach = _visible_queries(visible, length)
    if reach == length:
        return MaskShape() if _is_sliding(visible, length, length) else None
    if _is_sliding(visible, length, reach):
        return MaskShape(window=reach)
    return MaskShape(exact_length=reach) if _is_sliding(visible, reach, reach) else None


class _PastTheTokens(TorchFunctionMode):
    """What a function looks up of each token, such as the image it is part of, is -1 past the last
    one: part of nothing. So transformers pads such tensors itself."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            held, (*front, place) = args
            last = held.shape[-1] - 1
            if isinstance(place, torch.Tensor) and place.numel() and int(place.max()) > last:
                found = held[(*front, place.clamp(max=last))]
                return torch.where(place > last, torch.full_like(found, -1), found)
        result: torch.Tensor = func(*args, **(kwargs or {}))
        return result


def _visible_queries(visible: Visible, length: int) -> int:
    """How many queries, from the first on without a gap, see key 0."""
    sees = visible(torch.arange(length), torch.tensor(0))
    hidden = torch.nonzero(~sees)
    return int(hidden[0]) if len(hidden) else length


def _is_sliding(visible: Visible, length: int, window: int) -> bool:
    """Whether queries see just the last `window` keys: at the edges, and at a spread of places."""
    edges = {0, 1, window - 1, window, window + 1, 2 * window - 1, 2 * window, length - 1}
    edges |= {length * step // 16 for step in range(16)}
    keys = torch.arange(length)
    for query in sorted(place for place in edges if 0 <= place < length):
        expected = (keys <= query) & (keys > query - window)
        if not torch.equal(visible(torch.tensor(query), keys), expected):
            return False
    return True
