"""Token ids become int32 whatever sequence they come in, and what is none is named as before."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.prompt_check import with_checked_prompt
from batchgen.engine.token_ids import token_array
from batchgen.errors import ErrorCode, RowError


@pytest.mark.parametrize(
    "ids", [[], [0, 7, 2**31 - 1, -(2**31)], (3, 1), range(5), list(np.arange(4)), [True, 2]]
)
def test_every_sequence_of_ids_becomes_the_array_that_array_makes(ids: Sequence[int]) -> None:
    made = token_array(ids)
    assert (made, made.typecode) == (array("i", ids), "i")
    assert token_array(made) is made


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 2**70, 1.5, "7", None])
def test_what_is_no_id_is_refused_as_by_array(wrong: Any) -> None:
    with pytest.raises((OverflowError, TypeError)) as expected:
        array("i", [1, wrong])
    with pytest.raises(expected.type, match=str(expected.value)):
        token_array([1, wrong])


@pytest.mark.parametrize("wrong", [-1, -(2**40), 100, 2**31, 2**70])
def test_an_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    request = Request(0, [5, wrong, 6], SamplingParams())
    with pytest.raises(RowError, match=f"token id {wrong} is outside") as caught:
        with_checked_prompt(request, 100, 100)
    assert caught.value.code is ErrorCode.INVALID_ROW
