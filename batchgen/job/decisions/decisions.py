"""From scored labels to a decision: the most likely one, and how likely each is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchgen.engine.request import Completion, Timings
from batchgen.errors import ErrorCode, RowError
from batchgen.job.decisions.labels import LabelPlan, Ways

__all__ = ["Decision", "Decisions", "columns_of", "joined"]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a row's requests are for: those of its questions, one after the other.

    `names`: of the questions; empty for a row whose `choices` are put to its text itself.
    """

    ways: tuple[Ways, ...]
    names: tuple[str, ...] = ()

    def made(self, completions: Sequence[Completion]) -> list[Decision]:
        """One a question. RowError(NAN_LOGITS) where no label has a probability."""
        found, place = [], 0
        for way in self.ways:
            own = completions[place : place + len(way.requests)]
            found.append(_decision(way, [c.target_logprobs or [] for c in own]))
            place += len(way.requests)
        return found


@dataclass(frozen=True, slots=True)
class Decision:
    """`probs`, `logprobs`: of each label, in the labels' order; `token_ids`: of the chosen one."""

    labels: tuple[str, ...]
    probs: tuple[float, ...]
    logprobs: tuple[float, ...]
    choice: str
    token_ids: tuple[int, ...]

    @property
    def choice_probs(self) -> list[dict[str, Any]]:
        """As the output's structs."""
        columns = zip(self.labels, self.probs, self.logprobs, strict=True)
        return [{"label": a, "prob": p, "logprob": logprob} for a, p, logprob in columns]


def columns_of(decisions: Decisions, made: Sequence[Decision]) -> dict[str, Any]:
    """The output's columns. Of questions the completion is a JSON object, name to label."""
    tokens = [token for decision in made for token in decision.token_ids]
    if not decisions.names:
        (decision,) = made
        return {
            "completion": decision.choice,
            "choice": decision.choice,
            "choice_probs": decision.choice_probs,
            "completion_tokens": len(tokens),
            "token_ids": tokens,
        }
    named = list(zip(decisions.names, made, strict=True))
    text = json.dumps({name: decision.choice for name, decision in named}, ensure_ascii=False)
    return {
        "completion": text,
        "decisions": [
            {"name": name, "choice": decision.choice, "choice_probs": decision.choice_probs}
            for name, decision in named
        ],
        "completion_tokens": len(tokens),
        "token_ids": tokens,
    }


def joined(completions: Sequence[Completion]) -> Completion:
    """The requests of a row as one: from the first one's beginning to the last one's end."""
    times = [completion.timings for completion in completions]
    end = max(time.finished for time in times)
    timings = Timings(
        enqueued=min(time.enqueued for time in times),
        first_scheduled=min(time.first_scheduled for time in times),
        first_token=end,
        finished=end,
    )
    first = completions[0]
    return Completion(
        first.request_id,
        first.token_ids,
        first.finish_reason,
        timings=timings,
        preemptions=sum(completion.preemptions for completion in completions),
        cached_tokens=sum(completion.cached_tokens for completion in completions),
    )


def _decision(way: Ways, scored: Sequence[Sequence[float]]) -> Decision:
    logprobs = [_logprob(plan, scored) for plan in way.labels]
    best = max(logprobs)
    if not math.isfinite(best):
        text = "no label has a probability: the model's logits leave none of them possible"
        raise RowError(ErrorCode.NAN_LOGITS, text)
    weights = [math.exp(logprob - best) for logprob in logprobs]
    total = math.fsum(weights)
    chosen = way.labels[logprobs.index(best)]  # of equals the first
    return Decision(
        labels=tuple(plan.label for plan in way.labels),
        probs=tuple(weight / total for weight in weights),
        logprobs=tuple(logprobs),
        choice=chosen.label,
        token_ids=chosen.token_ids,
    )


def _logprob(plan: LabelPlan, scored: Sequence[Sequence[float]]) -> float:
    found = math.fsum(scored[request][target] for request, target in plan.places)
    if not plan.ends:
        return found
    return found + _log_of_sum([scored[request][target] for request, target in plan.ends])


def _log_of_sum(logprobs: Sequence[float]) -> float:
    best = max(logprobs)
    if not math.isfinite(best):
        return best
    return best + math.log(math.fsum(math.exp(logprob - best) for logprob in logprobs))
