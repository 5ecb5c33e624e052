"""Batches as Ray Data hands them to `Completions`; no Ray is needed."""

from __future__ import annotations

import numpy as np

from batchgen.cluster.ray import Completions


def test_a_null_among_numbers_of_a_numpy_batch_is_an_unset_setting() -> None:
    made = Completions(engine="echo")
    batch = {
        "id": np.array([1, 2]),
        "prompt": np.array(["abcd", "abcd"], dtype=object),
        "max_tokens": np.array([2.0, np.nan]),
        "temperature": np.array([np.nan, 0.0]),
    }
    done = made(batch).to_pydict()
    assert done["status"] == ["ok", "ok"], done["error_message"]
    assert done["completion"] == ["ab", "abcd"]
