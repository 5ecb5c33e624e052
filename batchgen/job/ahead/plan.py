"""What a job is made of and what it would cost: the work behind `batchgen plan`. No torch.

A prefix of the rows is read and tokenised, unless all are asked for; totals are scaled to the rows
that the input has. Outputs are counted as long as rows allow (`max_tokens`), or as long as told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import ceil

from batchgen.engine.request import Request
from batchgen.errors import ErrorCode
from batchgen.job.ahead.cost import GPUS, ModelShape, Work, seconds_of
from batchgen.job.ahead.opening import OpenedJob
from batchgen.job.ahead.survey import Survey
from batchgen.job.flow.reader_stage import CHUNK_CHARACTERS, CHUNK_ROWS, chunks
from batchgen.job.input.estimate import estimated_rows
from batchgen.job.spec import JobSpec
from batchgen.job.text.prepared import PreparedRow

__all__ = ["Plan", "plan_of"]

SAMPLE_ROWS = 10_000
_MOST_LISTED = 1000
_SHARD_HOURS = 4
_WORKSPACE_BYTES = 2 << 30
_SLOTS = 256
_GPUS_TOGETHER = (2, 4, 8)


@dataclass(slots=True)
class Plan:
    """Numbers of the rows read (`rows_read`), and of the whole job (`rows`; None: not known)."""

    gpu: str
    rows_read: int = 0
    rows: int | None = None
    bad: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    truncated: int = 0
    overlong: list[str] = field(default_factory=list)
    """`file:line` of prompts that do not fit; the first thousand."""
    prompt_tokens: int = 0
    histogram: dict[int, int] = field(default_factory=dict)
    """Prompts of at most so many tokens, and of more than the one before."""
    shared_share: float = 0.0
    """Of the prompt tokens, those in blocks that an earlier row begins with too."""
    folded: int = 0
    """Requests that take the answer of an equal one."""
    computed_prompt_tokens: int = 0
    """Of `prompt_tokens`, after both."""
    max_output_tokens: int = 0
    weight_bytes: int = 0
    kv_bytes_per_token: int = 0
    cache_tokens: int = 0
    live_sequences: int = 0
    fits: bool = False
    would_fit: list[str] = field(default_factory=list)
    """Where it does not: flags with which it would, the least change first."""
    seconds: float | None = None
    """Of the engine, for the whole job, without loading."""
    gpu_hours: float | None = None
    shards: int = 1


class _Rows:
    """Reads rows into a plan."""

    def __init__(self, job: OpenedJob, plan: Plan, mean_output: int | None) -> None:
        self._job, self._plan, self._mean_output = job, plan, mean_output
        spec = job.spec
        self.survey = Survey(prefix_caching=spec.enable_prefix_caching, fold=spec.fold)
        self.longest = 1

    def read(self, most: int | None) -> None:
        rows = islice(self._job.reader, most)
        bad: Counter[str] = Counter()
        for chunk in chunks(rows, CHUNK_ROWS, CHUNK_CHARACTERS):
            ready, failed = self._job.prepare(chunk)
            self._plan.rows_read += len(chunk)
            for row in failed:
                self._fail(bad, row.error.code, row.row.origin)
            for prepared in ready:
                self._take(prepared)
        self._plan.bad = dict(sorted(bad.items()))
        self._plan.truncated = self._job.requests.num_cut
        survey = self.survey
        self._plan.folded = survey.num_folded
        self._plan.computed_prompt_tokens = survey.computed_tokens
        shared = 1 - survey.computed_tokens / max(survey.prompt_tokens, 1)
        self._plan.shared_share = round(shared, 4)

    def _fail(self, bad: Counter[str], code: ErrorCode, origin: str) -> None:
        if code is ErrorCode.PROMPT_TOO_LONG:
            if len(self._plan.overlong) < _MOST_LISTED:
                self._plan.overlong.append(origin)
            if self._job.spec.input.overlong == "skip":
                self._plan.skipped += 1
                return
        bad[str(code)] += 1

    def _take(self, row: PreparedRow) -> None:
        plan, first = self._plan, row.requests[0]
        for request in row.requests:
            output = self._output_of(request)
            sibling = request is not first and request.prompt_token_ids == first.prompt_token_ids
            self.survey.add(request, output, sibling=sibling)
            self.longest = max(self.longest, len(request.prompt_token_ids) + output)
            plan.max_output_tokens += output
        length = row.num_computed_tokens
        plan.prompt_tokens += length
        bin_ = 1 << max(length - 1, 0).bit_length()
        plan.histogram[bin_] = plan.histogram.get(bin_, 0) + 1

    def _output_of(self, request: Request) -> int:
        limit, most = self._job.max_model_len, request.params.max_tokens
        expected = min(self._mean_output or most, most)
        return expected if limit is None else min(expected, limit - len(request.prompt_token_ids))


def plan_of(
    job: OpenedJob,
    shape: ModelShape,
    gpu: str,
    *,
    whole: bool,
    mean_output: int | None,
    smaller: Mapping[str, Callable[[], ModelShape]] | None = None,
) -> Plan:
    """`gpu`: of `GPUS`. `whole`: read all rows. `mean_output`: tokens expected of a row. `smaller`:
    what the model would be with other flags, asked where it does not fit."""
    plan = Plan(gpu)
    rows = _Rows(job, plan, mean_output)
    rows.read(None if whole else SAMPLE_ROWS)
    at_end = whole or plan.rows_read < SAMPLE_ROWS
    limit = job.spec.input.limit
    plan.rows = plan.rows_read if at_end else estimated_rows(job.reader.sources, limit)
    plan.histogram = dict(sorted(plan.histogram.items()))
    _fit(plan, rows, shape, job.spec)
    if not plan.fits:
        memory = _memory(plan.gpu, job.spec)
        plan.would_fit = list(_would_fit(shape, smaller or {}, memory, rows.longest))
    if plan.fits and plan.rows is not None:
        _predict(plan, rows.survey.work(max(plan.live_sequences, 1)), shape, plan.rows)
    return plan


def _memory(gpu: str, spec: JobSpec) -> int:
    return int(GPUS[gpu].memory_gb * 1e9 * spec.gpu_memory_utilization)


def _cache_tokens(shape: ModelShape, memory: int, num_gpus: int = 1) -> int:
    """Tokens that the cache has room for, on each of so many GPUs that share the model."""
    room = memory - shape.weight_bytes // num_gpus - _WORKSPACE_BYTES
    return max(room // max(shape.kv_bytes_per_token // num_gpus, 1), 0)


def _would_fit(
    shape: ModelShape,
    smaller: Mapping[str, Callable[[], ModelShape]],
    memory: int,
    longest: int,
) -> Iterator[str]:
    for flags, other in smaller.items():
        if _cache_tokens(other(), memory) >= longest:
            yield flags
            break
    for num_gpus in _GPUS_TOGETHER:
        if _cache_tokens(shape, memory, num_gpus) >= longest:
            yield f"--tensor-parallel {num_gpus}"
            return


def _fit(plan: Plan, rows: _Rows, shape: ModelShape, spec: JobSpec) -> None:
    plan.weight_bytes, plan.kv_bytes_per_token = shape.weight_bytes, shape.kv_bytes_per_token
    plan.cache_tokens = _cache_tokens(shape, _memory(plan.gpu, spec))
    survey = rows.survey
    mean = survey.own_tokens / max(survey.num_computed, 1)
    plan.live_sequences = min(spec.max_num_seqs or _SLOTS, int(plan.cache_tokens // max(mean, 1)))
    plan.fits = plan.cache_tokens >= rows.longest


def _predict(plan: Plan, work: Work, shape: ModelShape, rows: int) -> None:
    seconds = seconds_of(work, shape, GPUS[plan.gpu], max(plan.live_sequences, 1))
    plan.seconds = round(seconds * rows / max(plan.rows_read, 1), 3)
    plan.gpu_hours = round(plan.seconds / 3600, 4)
    plan.shards = max(ceil(plan.gpu_hours / _SHARD_HOURS), 1)
