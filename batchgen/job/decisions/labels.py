"""What a label's probability is, and which requests find it.

A label's log-probability is the sum of its tokens' after the prompt, by the model's own logits
(temperature 1, no processor). Its tokens are those of prompt and label tokenised together, after
what the prompt and all labels have in common, so that a merge across the boundary is the one that
the model knows. Where one label begins another (`good`, `good enough`), the end of the turn counts
too, for all labels of the question: the probability of any token that ends it, after the label.
Probabilities are normalised over the question's labels.

Labels are a tree of tokens. Each inner node wants the log-probabilities of its children, and one
request computes all nodes on its way: labels of one token are one request, whose last place is
scored and nothing else; of others there is one for each longest way, and they share the prompt.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from batchgen.engine.prefix.common import num_common
from batchgen.engine.targets import Targets
from batchgen.engine.token_ids import token_array
from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = ["LabelPlan", "Ways", "plan_labels"]

_Path = tuple[int, ...]
_Place = tuple[int, int]
"""Which of the question's requests, and which of its targets."""
_MOST_PLANS = 64


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """One label: its tokens, where their log-probabilities will be found, and those of the tokens
    that may end it (none: the end does not count)."""

    label: str
    token_ids: _Path
    places: tuple[_Place, ...]
    ends: tuple[_Place, ...]


@dataclass(frozen=True, slots=True)
class Ways:
    """What is computed for one question: token ids of each request with what is scored of them."""

    requests: tuple[tuple[array[int], Targets], ...]
    labels: tuple[LabelPlan, ...]


class _Shape(NamedTuple):
    """A request behind the context: its tokens, how many of its places others score, and its
    targets (`Targets`)."""

    way: array[int]
    skipped: int
    token_ids: array[int]
    ends: array[int]


def plan_labels(
    labels: Sequence[str],
    prompt: list[int],
    joined: Sequence[list[int]],
    end_token_ids: Sequence[int],
) -> Ways:
    """`prompt`: its token ids; `joined`: those of the prompt with each label.

    RowError(INVALID_PARAM) where labels cannot be told apart, or nothing comes before them.
    """
    length = min(num_common(prompt, ids) for ids in joined)
    if not length:
        text = "choices: label and prompt have no token in common that comes before both"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    tokens = tuple(tuple(ids[length:]) for ids in joined)
    shapes, plans = _planned(tuple(labels), tokens, tuple(dict.fromkeys(end_token_ids)))
    context = token_array(prompt[:length])
    requests = (
        (context + way, Targets(length - 1 + skipped, ids, ends))
        for way, skipped, ids, ends in shapes
    )
    return Ways(tuple(requests), plans)


@lru_cache(_MOST_PLANS)
def _planned(
    labels: tuple[str, ...], tokens: tuple[_Path, ...], end_token_ids: tuple[int, ...]
) -> tuple[tuple[_Shape, ...], tuple[LabelPlan, ...]]:
    """What does not depend on the context: mostly the same for all rows with these labels."""
    ended = _needs_end(labels)
    _check(labels, tokens, ended, end_token_ids)
    ends = end_token_ids if ended else ()
    shapes, found = _shapes(_wanted(tokens, ends))
    plans = (
        LabelPlan(
            label,
            path,
            tuple(found[path[:i], path[i]] for i in range(len(path))),
            tuple(found[path, end] for end in ends),
        )
        for label, path in zip(labels, tokens, strict=True)
    )
    return shapes, tuple(plans)


def _needs_end(labels: Sequence[str]) -> bool:
    ordered = sorted(labels)
    return any(b.startswith(a) for a, b in pairwise(ordered))


def _check(
    labels: Sequence[str], tokens: Sequence[_Path], ended: bool, end_token_ids: Sequence[int]
) -> None:
    if not all(tokens) or len(set(tokens)) < len(tokens):
        text = f"choices: the tokenizer makes the same of two of {shown(list(labels))}"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    if ended and not end_token_ids:
        text = (
            f"choices: a label of {shown(list(labels))} begins another, and the model names no "
            "token that ends a text, which would tell them apart"
        )
        raise RowError(ErrorCode.INVALID_PARAM, text)


def _wanted(tokens: Sequence[_Path], ends: Sequence[int]) -> dict[_Path, dict[int, None]]:
    """Inner node -> the tokens whose log-probabilities are wanted there."""
    wanted: dict[_Path, dict[int, None]] = {}
    for path in tokens:
        for i, token in enumerate(path):
            wanted.setdefault(path[:i], {})[token] = None
    for path in tokens if ends else ():
        wanted.setdefault(path, {}).update(dict.fromkeys(ends))
    return wanted


def _shapes(
    wanted: dict[_Path, dict[int, None]],
) -> tuple[tuple[_Shape, ...], dict[tuple[_Path, int], _Place]]:
    """One request for each node that no other goes through; each node is scored by the first."""
    inner = {path[:i] for path in wanted for i in range(len(path))}
    made: list[_Shape] = []
    found: dict[tuple[_Path, int], _Place] = {}
    taken: set[_Path] = set()
    for way in (path for path in wanted if path not in inner):
        nodes = [way[:i] for i in range(len(way) + 1)]
        skipped = next(i for i, node in enumerate(nodes) if node not in taken)
        ids, ends = array("i"), array("i")
        for node in nodes[skipped:]:
            for token in wanted.get(node, ()) if node not in taken else ():
                found[node, token] = len(made), len(ids)
                ids.append(token)
            ends.append(len(ids))
        taken.update(nodes)
        made.append(_Shape(array("i", way), skipped, ids, ends))
    return tuple(made), found
