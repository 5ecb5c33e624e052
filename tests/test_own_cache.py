"""A model's own cache goes by the name that its forward has for it, whatever release it is of."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import VOCAB_SIZE, tiny_model
from transformers.utils import logging as transformers_logging

from batchgen.engine.model.own_cache import cache_name, returned_cache
from batchgen.engine.model.proof_logits import ENDS, own_logits


def older(input_ids: Any, past_key_values: Any = None) -> None: ...


def newer(input_ids: Any, cache: Any = None) -> None: ...


def both(input_ids: Any, cache: Any = None, past_key_values: Any = None) -> None: ...


def handed_on(input_ids: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (older, "past_key_values"),
        (newer, "cache"),
        (both, "past_key_values"),
        (handed_on, "past_key_values"),
    ],
)
def test_the_cache_goes_by_the_name_in_the_signature(forward: Any, expected: str) -> None:
    assert cache_name(SimpleNamespace(forward=forward)) == expected


def test_a_forward_without_a_cache_is_named_as_such() -> None:
    with pytest.raises(TypeError, match="takes no cache"):
        cache_name(SimpleNamespace(forward=lambda input_ids: None))


def test_the_cache_comes_back_under_either_name() -> None:
    assert returned_cache({"cache": 1}, "cache") == 1
    assert returned_cache({"past_key_values": 2}, "cache") == 2
    assert returned_cache({"cache": 3}, "past_key_values") == 3
    assert returned_cache({"logits": 4}, "cache") is None


def test_the_oracle_reads_through_the_cache_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = tiny_model("llama")
    transformers_logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            parts = own_logits(module, VOCAB_SIZE)
    finally:
        transformers_logging.disable_propagation()
    assert not caplog.records
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB_SIZE, (22,), generator=generator)
    whole = module(ids[None], use_cache=False).logits[0]
    torch.testing.assert_close(parts[0], whole[list(ENDS[0])], rtol=1e-4, atol=1e-4)
