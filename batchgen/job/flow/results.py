"""Finished rows into output rows: text, timings, provenance. In batches: decoding is faster so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchgen.engine.request import Completion, Timings
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.reading import Answer
from batchgen.job.decisions.decisions import Decisions, columns_of, joined
from batchgen.job.flow.outbox import FinishedRow, Outcome
from batchgen.job.rows import InputRow, OutputRow
from batchgen.job.text.kept_specials import with_special_tokens
from batchgen.job.text.prepared import FailedRow, PreparedRow, as_row_error, failed
from batchgen.job.text.scored_prompts import likely_tokens, prompt_columns
from batchgen.job.text.stop_strings import num_exempt_characters, truncate
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.token_texts import TokenTexts

__all__ = ["Results", "ResultsOptions"]

STEERED = "grammar"
"""`stop_reason` of a completion that max_tokens would have cut, had its grammar not ended it."""


@dataclass(frozen=True, slots=True)
class ResultsOptions:
    """What the output holds beside the required columns."""

    run_id: str
    save_prompt: bool = True
    save_token_ids: bool = False
    skip_overlong: bool = False
    """A prompt that does not fit is a skipped row, not a failed one."""


class Results:
    """Makes output rows. `attempt(index)`: runs in which that row was begun, this one included."""

    def __init__(
        self,
        codec: Callable[[], TextCodec],
        attempt: Callable[[int], int],
        options: ResultsOptions,
    ) -> None:
        self._codec = codec
        self._attempt = attempt
        self._options = options
        self._token_texts: TokenTexts | None = None
        # Wall-clock time of monotonic zero: durations never jump with the clock.
        self._epoch = time.time() - time.monotonic()

    def output_rows(self, outcomes: Sequence[Outcome]) -> list[OutputRow]:
        """All rows of these outcomes; never raises for a row's content."""
        rows: list[OutputRow] = []
        finished = [outcome for outcome in outcomes if isinstance(outcome, FinishedRow)]
        answers = iter(self._answers(finished))
        for outcome in outcomes:
            if isinstance(outcome, FailedRow):
                rows.append(self._error_row(outcome))
                continue
            found = [next(answers) for _ in outcome.completions]
            broken = next((answer for answer in found if isinstance(answer, FailedRow)), None)
            if broken is not None:
                rows.append(self._error_row(broken))
                continue
            if outcome.prepared.decisions is not None:
                rows.append(self._decided(outcome, outcome.prepared.decisions))
                continue
            pairs = zip(outcome.completions, found, strict=True)
            made = [
                self._row(outcome.prepared, sample, completion, answer)
                for sample, (completion, answer) in enumerate(pairs)
                if isinstance(answer, Answer)
            ]
            if outcome.prepared.row.params.prompt_logprobs is not None:
                made = self._with_prompt_logprobs(made, outcome)
            rows += made
        return rows

    def _decided(self, outcome: FinishedRow, decisions: Decisions) -> OutputRow:
        """One row, whatever the number of requests that its decisions took."""
        prepared, completions = outcome.prepared, outcome.completions
        try:
            columns = columns_of(decisions, decisions.made(completions))
        except RowError as error:
            return self._error_row(failed(prepared, error))
        out = self._row(prepared, 0, joined(completions), Answer(""))
        if not self._options.save_token_ids:
            del columns["token_ids"]
        return replace(out, **columns)

    def _with_prompt_logprobs(self, rows: list[OutputRow], outcome: FinishedRow) -> list[OutputRow]:
        """The first sample was asked; all have the same prompt."""
        token_ids, first = outcome.prepared.prompt_token_ids, outcome.completions[0]
        columns = prompt_columns(token_ids, first, self._texts_of_tokens())
        return [replace(row, **columns) for row in rows]

    def _answers(self, finished: list[FinishedRow]) -> list[Answer | FailedRow]:
        """What every completion says, in order, or the failure that stands in its place."""
        pairs = [(row.prepared, c) for row in finished for c in row.completions]
        plain = [_text_ids(c, prepared) for prepared, c in pairs if prepared.reading is None]
        try:
            texts = iter(self._codec().decode_batch(plain) if plain else [])
        except Exception:
            return [self._answer(prepared, c, None) for prepared, c in pairs]
        return [
            self._answer(prepared, c, next(texts) if prepared.reading is None else None)
            for prepared, c in pairs
        ]

    def _answer(
        self, prepared: PreparedRow, completion: Completion, text: str | None
    ) -> Answer | FailedRow:
        """`text`: of its tokens, where it is known by now."""
        try:
            return self._read(prepared, completion, text)
        except Exception as error:
            problem = as_row_error(error, ErrorCode.INTERNAL, "the completion cannot be decoded")
            return FailedRow(prepared.row, problem, prepared.prompt, prepared.num_prompt_tokens)

    def _read(self, prepared: PreparedRow, completion: Completion, text: str | None) -> Answer:
        ids, params = _text_ids(completion, prepared), prepared.row.params
        reason, reading = completion.stop_reason, prepared.reading
        num_cut = 0
        if text is None and (reading is None or isinstance(reason, str)):
            text = self._codec_for(prepared.row).decode_batch([ids])[0]
        if isinstance(reason, str) and text is not None:
            codec, keep = self._codec_for(prepared.row), params.include_stop_str_in_output
            exempt = num_exempt_characters(codec, completion.token_ids, params.min_tokens)
            whole, text = text, truncate(text, reason, exempt, keep_stop=keep)
            num_cut = len(whole) - len(text)
        return (
            Answer(text or "")
            if reading is None
            else reading.read(ids, num_cut, str(completion.request_id))
        )

    def _codec_for(self, row: InputRow) -> TextCodec:
        codec = self._codec()
        return codec if row.params.skip_special_tokens else with_special_tokens(codec)

    def _row(
        self, prepared: PreparedRow, sample: int, completion: Completion, answer: Answer
    ) -> OutputRow:
        row, options = prepared.row, self._options
        reason = completion.stop_reason
        if completion.is_steered and not isinstance(reason, str):  # a stop string cuts what is led
            reason = STEERED
        return OutputRow(
            index=row.index,
            sample=sample,
            id=row.output_id,
            status="ok",
            prompt=prepared.prompt if options.save_prompt else None,
            completion=answer.completion,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_calls,
            reasoning_tokens=answer.reasoning_tokens,
            finish_reason=completion.finish_reason.value,
            stop_reason=None if reason is None else str(reason),
            prompt_tokens=prepared.num_prompt_tokens,
            completion_tokens=len(completion.token_ids),
            cached_tokens=completion.cached_tokens,
            preemptions=completion.preemptions,
            attempt=self._attempt(row.index),
            seed=row.params.seed,
            run_id=options.run_id,
            token_ids=completion.token_ids if options.save_token_ids else None,
            kept=row.kept,
            **self._logprobs(completion),
            **self._times(completion.timings, len(completion.token_ids)),
        )

    def _logprobs(self, completion: Completion) -> dict[str, Any]:
        """Of the chosen tokens and of the likeliest ones, as far as the row asked for them."""
        if completion.logprobs is None:
            return {}
        texts, top = self._texts_of_tokens(), completion.top_logprobs
        return {
            "logprobs": completion.logprobs,
            "token_texts": texts(completion.token_ids),
            "top_logprobs": None if top is None else likely_tokens(top, texts),
        }

    def _texts_of_tokens(self) -> TokenTexts:
        if self._token_texts is None:
            self._token_texts = TokenTexts(self._codec().token_bytes)
        return self._token_texts

    def _times(self, timings: Timings, num_tokens: int) -> dict[str, Any]:
        """Parts that add up: queue + prefill = ttft, ttft + decode = latency."""
        queue = timings.first_scheduled - timings.enqueued
        prefill = timings.first_token - timings.first_scheduled
        decode = timings.finished - timings.first_token
        return {
            "queue_s": queue,
            "prefill_s": prefill,
            "decode_s": decode,
            "ttft_s": queue + prefill,
            "latency_s": queue + prefill + decode,
            "tpot_s": decode / (num_tokens - 1) if num_tokens > 1 else None,
            "started_at": int((self._epoch + timings.enqueued) * 1e6),
            "finished_at": int((self._epoch + timings.finished) * 1e6),
        }

    def _error_row(self, failed: FailedRow) -> OutputRow:
        now = int(time.time() * 1e6)
        code = failed.error.code
        skipped = self._options.skip_overlong and code is ErrorCode.PROMPT_TOO_LONG
        return OutputRow(
            index=failed.row.index,
            sample=0,
            id=failed.row.output_id,
            status="skipped" if skipped else "error",
            prompt=failed.prompt if self._options.save_prompt else None,
            error_code=None if skipped else code.value,
            error_message=failed.error.message,
            prompt_tokens=failed.num_prompt_tokens,
            attempt=self._attempt(failed.row.index) - failed.untried,
            started_at=now,
            finished_at=now,
            run_id=self._options.run_id,
            kept=failed.row.kept,
            input_digest=failed.row.digest,
        )


def _text_ids(completion: Completion, prepared: PreparedRow) -> list[int]:
    """The ids that make the text: without a token that ended it, which decoding may not skip,
    unless the row wants that too."""
    ids, keep = completion.token_ids, prepared.row.params.include_stop_str_in_output
    return ids[:-1] if completion.ends_with_stop_token and not keep else ids
