"""Finds a model's last layer, and lets it answer for few tokens if its logits stay what they were.

Nothing is read off names: the layer is the last item of the list whose items attend, the tensors
that go with tokens are told by two steps of unlike size, and the whole is compared.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Any

import torch
from torch import nn

from batchgen.causes import first_line
from batchgen.engine.last_layer.layer import LastLayer, token_dims
from batchgen.engine.model.binding import CALL_ATTRIBUTE
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof import allowed_error
from batchgen.engine.model.proof_logits import each_logits, worst_error
from batchgen.engine.weights import Weights

__all__ = ["bind_last_layer", "few_logits", "pays_alone", "prove_ends"]

_STEPS, _FEW = 2, 4
_LARGE_LAYER = 64 << 20
"""Parameters. A layer of 8B has 218 million: its products take ten times as long as the rest."""
_LOG = logging.getLogger(__name__)


def pays_alone(device: torch.device, weights: Weights, num_layers: int) -> bool:
    """Whether the last layer's two calls take less time than one of all tokens: on a GPU its norm
    and rotary embedding, one operator after the other, cost as much as a small layer's products."""
    return device.type != "cuda" or weights.active_parameters >= num_layers * _LARGE_LAYER


def bind_last_layer(model: Model) -> bool:
    """Let the last layer of a bound model answer for the tokens whose logits are asked, from now
    on. False: it stays, because it is of another form or did not pass the comparison."""
    found = _find(model)
    if found is None:
        return False
    layer, holder = found
    calls: list[tuple[int, Any]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        assert model.step.metadata is not None
        calls.append((model.step.metadata.num_tokens, (args, kwargs)))
        return layer._call_impl(*args, **kwargs)

    layer._compiled_call_impl = record
    try:
        expected = few_logits(model)
    finally:
        layer._compiled_call_impl = None
    dims = token_dims(calls)
    if dims is None or all(dim is None for dim in dims):
        return False
    layer._compiled_call_impl = LastLayer(layer, holder, model.step, dims)
    if not prove_ends(model, expected):
        layer._compiled_call_impl = None
    return model.ends_alone


def prove_ends(model: Model, expected: list[torch.Tensor]) -> bool:
    """Set `ends_alone` if the logits of a few steps, `few_logits` without it, stay the same."""
    model.ends_alone = True
    try:
        worst = worst_error(few_logits(model), expected)
    except Exception as error:  # of a model's own code: whole, it has just answered
        _LOG.info("the last layer answers for every token: %s", first_line(error))
        worst = float("nan")
    model.ends_alone = worst <= allowed_error(model.module)  # NaN must not pass
    _LOG.info("the last layer answers for %s", "few tokens" if model.ends_alone else "every token")
    return model.ends_alone


def few_logits(model: Model) -> list[torch.Tensor]:
    """Logits [.., vocab_size] of a few tokens of two of the proof's steps, of unlike sizes."""
    found = list(islice(each_logits(model, _FEW), _STEPS))
    model.release_cache()
    return found


def _find(model: Model) -> tuple[Any, nn.Module] | None:
    """The layer and the module in it that attends; None where it attends otherwise than once."""
    if model.cursors:
        return None
    call = model.calls[-1]
    for stack in model.module.modules():
        if not isinstance(stack, nn.ModuleList) or not len(stack):
            continue
        own = [part for part in stack[-1].modules() if hasattr(part, CALL_ATTRIBUTE)]
        if [getattr(part, CALL_ATTRIBUTE) for part in own] == [call]:
            return stack[-1], own[0]
    return None
