"""Positions of a step whose next token's log-probability is asked for (`request.Targets`).

A position costs a row of logits as wide as the vocabulary, so a step has a bounded number of them.
"""

from __future__ import annotations

from typing import NamedTuple

from batchgen.engine.targets import Targets

__all__ = ["ScoredRow", "num_fitting", "scored_range"]


class ScoredRow(NamedTuple):
    """Row `row` of a step is scored at positions `begin` to `end` of its sequence."""

    row: int
    begin: int
    end: int


def scored_range(targets: Targets, start: int, end: int) -> tuple[int, int]:
    """The scored positions among those from `start` to `end`; empty: both are equal."""
    begin = max(start, targets.first)
    return begin, max(begin, min(end, targets.last))


def num_fitting(targets: Targets, start: int, num_tokens: int, room: int) -> int:
    """How many of the next tokens may be computed, `room` positions being scored at most."""
    begin, end = scored_range(targets, start, start + num_tokens)
    return num_tokens if end - begin <= room else begin + room - start
