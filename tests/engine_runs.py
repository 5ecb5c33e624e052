"""Engines run until nothing is left to do."""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.engine.request import Completion, Engine, Request


def completions_of(engine: Engine, requests: Iterable[Request]) -> dict[int, Completion]:
    """Of all requests, and of those that are queued, run to their end; each must finish once."""
    for request in requests:
        engine.add(request)
    completions: dict[int, Completion] = {}
    for _ in range(20_000):
        if not engine.num_unfinished:
            return completions
        for completion in engine.step():
            assert completion.request_id not in completions, "finished twice"
            completions[completion.request_id] = completion
    raise AssertionError("the engine does not finish")


def tokens_of(completions: dict[int, Completion]) -> dict[int, list[int]]:
    """In the order of the requests' ids."""
    return {index: c.token_ids for index, c in sorted(completions.items())}


def tokens_in_order(engine: Engine, requests: Iterable[Request]) -> list[list[int]]:
    """Of all requests, none of which may fail, by their ids."""
    completions = completions_of(engine, requests)
    failures = [c.error_message for c in completions.values() if c.error_code is not None]
    assert not failures, failures
    return list(tokens_of(completions).values())
