"""A workload of a real input's rows: prompts and sampling as a run of them has, lengths fixed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from batchgen.counts import counted
from batchgen.engine.request import Request, SamplingParams
from batchgen.errors import InvalidDataError
from batchgen.job.ahead.opening import opened
from batchgen.job.model.files import ModelFiles
from batchgen.job.spec import JobSpec
from batchgen.job.text.prepared import PreparedRow
from batchgen.report.workloads import WorkItem

__all__ = ["real_workload"]

_ROWS_AT_ONCE = 256
_CHOOSING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "logprobs", "top_logprobs", "logit_bias", "bad_words",
    "allowed_token_ids", "no_repeat_ngram_size",
)  # fmt: skip
"""Parameters that choose a token; the others end a row, or concern its text."""


def real_workload(
    spec: JobSpec, files: ModelFiles | None, say: Callable[[str], None]
) -> list[WorkItem]:
    """One item a sample, whose prompt is the tokens that `run` would give the engine: what rows
    have in common they have here. What a bench leaves out is told by `say`. Never imports torch.
    Raises InvalidDataError where no row is left."""
    ready: list[PreparedRow] = []
    num_failed = 0
    with opened(spec, files) as job:
        rows = iter(job.reader)
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            prepared, failed = job.prepare(chunk)
            ready += prepared
            num_failed += len(failed)
    requests = [request for row in ready for request in row.requests if request.targets is None]
    num_scored = sum(row.requests[0].targets is not None for row in ready)
    if num_scored and not requests:
        raise InvalidDataError(
            f"{counted(num_scored, 'row')} choose or score: a bench measures what is generated",
            "a run's last line has their total_tokens_per_s: batchgen run --limit 1000 --in ...",
        )
    if not requests:
        raise InvalidDataError(
            "the input has no row to measure", "try `batchgen validate --in ...`"
        )
    if num_failed:
        say(f"left out: {counted(num_failed, 'row')} in error (`batchgen validate` names them)")
    if num_scored:
        say(f"left out: {counted(num_scored, 'row')} that choose or score and generate nothing")
    if num_ending := sum(map(_may_end, requests)):
        say(f"lengths are fixed: {counted(num_ending, 'sample')} may end early in a run, not here")
    return [
        WorkItem(one.prompt_token_ids, one.params.max_tokens, sampling=_sampling(one.params))
        for one in requests
    ]


def _sampling(params: SamplingParams) -> dict[str, Any]:
    """What differs from a greedy row's."""
    plain = SamplingParams()
    named = {name: getattr(params, name) for name in _CHOOSING}
    return {name: value for name, value in named.items() if value != getattr(plain, name)}


def _may_end(request: Request) -> bool:
    """By stop texts, stop tokens or a grammar."""
    ends = (request.stop_checker, request.constraint, request.params.stop_token_ids or None)
    return any(end is not None for end in ends)
