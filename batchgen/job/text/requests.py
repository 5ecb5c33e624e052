"""Rows into engine requests: template, tokens, draws. What a row's content breaks is its own error.

Work is done in batches, because a tokenizer is several times faster on a list; where a batch fails,
its rows are done one by one so that only the guilty ones become error rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from batchgen.engine.draws import draw_key
from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import Constraint, Request, SamplingParams, StopChecker
from batchgen.engine.token_ids import token_array
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.reading import AnswerParsers, Reading, guided
from batchgen.job.rows import InputRow
from batchgen.job.templates.chat_template import Chat
from batchgen.job.templates.render_process import RenderProcess
from batchgen.job.templates.row_prompts import RowPrompts
from batchgen.job.templates.row_template import RowTemplate
from batchgen.job.text.deciding import Deciding
from batchgen.job.text.hints import Hints
from batchgen.job.text.kept_specials import with_special_tokens
from batchgen.job.text.overlong import OverlongPolicy, PromptCut
from batchgen.job.text.prepared import FailedRow, PreparedRow, as_row_error, request_id
from batchgen.job.text.scored_prompts import num_computed, prompt_targets
from batchgen.job.text.stop_strings import make_stop_checker
from batchgen.job.text.text_codec import TextCodec

__all__ = ["Requests", "answer_parsers"]


def answer_parsers(
    codec: TextCodec, reasoning: str = "auto", tool_calls: str = "auto"
) -> AnswerParsers:
    """How answers are read: by parsers' names, or by the chat template (`auto`)."""
    template = None if codec.template is None else codec.template.sources
    return AnswerParsers(codec, template, reasoning, tool_calls)


class Requests:
    """Makes requests out of rows, with one model's tokenizer."""

    def __init__(
        self,
        codec: TextCodec,
        *,
        eos_token_ids: Sequence[int] = (),
        inflight_tokens: Callable[[int, int], Sequence[int]] | None = None,
        row_template: RowTemplate | None = None,
        overlong: OverlongPolicy | None = None,
        parsers: AnswerParsers | None = None,
        default_params: SamplingParams | None = None,
    ) -> None:
        self._codec = codec
        self._parsers = parsers or answer_parsers(codec)
        self._row_prompts = None if row_template is None else RowPrompts(row_template)
        self._process = None if codec.template is None else RenderProcess(codec.template)
        self._cut = PromptCut(overlong or OverlongPolicy(), codec, self._rendered_again)
        self._inflight_tokens = inflight_tokens
        eos_token_ids = [token for token in eos_token_ids if token < codec.vocab_size]
        self._grammars = GrammarCompiler(codec.vocabulary, codec.vocab_size, eos_token_ids)
        self._deciding = Deciding(codec, eos_token_ids, self._texts_of, self._cut)
        self.saw_plain_prompt = self.saw_chat = False
        self._hints = Hints(codec, default_params or SamplingParams())

    def prepare(self, rows: Sequence[InputRow]) -> tuple[list[PreparedRow], list[FailedRow]]:
        """Split rows into those ready for the engine and those that failed. Never raises for a
        row's content."""
        if self._row_prompts is not None:
            self._row_prompts.fill(rows)
        failed = [FailedRow(row, row.error, row.prompt) for row in rows if row.error is not None]
        texts: list[tuple[InputRow, str]] = []
        ready: list[PreparedRow] = []
        conversations: list[InputRow] = []
        self._decide([r for r in rows if r.error is None and r.params.decides], ready, failed)
        for row in rows:
            if row.error is not None or row.params.decides:
                continue
            if row.prompt is not None:
                texts.append((row, row.prompt))
            elif row.messages is not None:
                conversations.append(row)
            else:
                self._finish(row, None, row.prompt_token_ids or [], ready, failed)
        chats = self._rendered(conversations, failed)
        self.saw_plain_prompt = self.saw_plain_prompt or bool(texts)
        self.saw_chat = self.saw_chat or bool(chats)
        self._encode(texts, self._codec.encode_batch, ready, failed)
        self._encode(chats, self._codec.encode_rendered, ready, failed)
        return ready, failed

    @property
    def num_cut(self) -> int:
        """Prompts that were cut to fit, so far."""
        return self._cut.num_cut

    def close(self) -> None:
        """No more rows come."""
        if self._row_prompts is not None:
            self._row_prompts.close()
        if self._process is not None:
            self._process.close()

    def _rendered(
        self, rows: Sequence[InputRow], failed: list[FailedRow]
    ) -> list[tuple[InputRow, str]]:
        """The chats' texts; those that the template refuses are failed."""
        for row in rows:
            self._hints.unread_settings(row)
            self._hints.loose_calls(row)
            self._hints.answered(row)
            self._hints.left_out(row, self._texts_of)
        texts = self._texts_of([(row.messages or [], row.template_kwargs) for row in rows])
        rendered: list[tuple[InputRow, str]] = []
        for row, text in zip(rows, texts, strict=True):
            if isinstance(text, RowError):
                failed.append(FailedRow(row, text))
            else:
                rendered.append((row, text))
        return rendered

    def _rendered_again(self, messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> str:
        text = self._texts_of([(messages, kwargs)])[0]
        if isinstance(text, RowError):
            raise text
        return text

    def _texts_of(self, chats: Sequence[Chat]) -> list[str | RowError]:
        if self._process is not None:
            return self._process.render(chats)
        return [self._render_here(chat) for chat in chats]

    def _decide(
        self, rows: Sequence[InputRow], ready: list[PreparedRow], failed: list[FailedRow]
    ) -> None:
        good: list[InputRow] = []
        for row in rows:
            self._hints.unread_settings(row)
            self._hints.unheeded_settings(row)
            self._hints.glued_labels(row)
            error = self._outside_vocabulary(row.prompt_token_ids) if row.prompt_token_ids else None
            if error is None:
                good.append(row)
            else:
                failed.append(FailedRow(row, error))
            self.saw_chat = self.saw_chat or row.messages is not None
            self.saw_plain_prompt = self.saw_plain_prompt or row.prompt is not None
        for made in self._deciding.prepare(good):
            if isinstance(made, FailedRow):
                failed.append(made)
            else:
                ready.append(made)

    def _render_here(self, chat: Chat) -> str | RowError:
        """Without a template: what the codec itself makes of a chat."""
        try:
            return self._codec.render_text(*chat)
        except Exception as error:
            return as_row_error(error, ErrorCode.TEMPLATE_ERROR, "the chat template failed")

    def _encode(
        self,
        pairs: list[tuple[InputRow, str]],
        encode: Callable[[list[str]], list[list[int]]],
        ready: list[PreparedRow],
        failed: list[FailedRow],
    ) -> None:
        if not pairs:
            return
        try:
            encoded = encode([text for _, text in pairs])
        except Exception as error:
            if len(pairs) == 1:
                row, text = pairs[0]
                problem = as_row_error(error, ErrorCode.INTERNAL, "the tokenizer failed")
                failed.append(FailedRow(row, problem, text))
                return
            for pair in pairs:
                self._encode([pair], encode, ready, failed)
            return
        for (row, text), token_ids in zip(pairs, encoded, strict=True):
            if row.prompt is not None:
                self._hints.two_bos(row, text)
            self._finish(row, text, token_ids, ready, failed)

    def _finish(
        self,
        row: InputRow,
        text: str | None,
        token_ids: list[int],
        ready: list[PreparedRow],
        failed: list[FailedRow],
    ) -> None:
        try:
            text, token_ids = self._cut.fitted(row, text, token_ids)
        except RowError as unfit:
            failed.append(FailedRow(row, unfit, text, len(token_ids)))
            return
        error = None if token_ids else RowError(ErrorCode.EMPTY_PROMPT, "the prompt has no token")
        if text is None and token_ids:
            error = self._outside_vocabulary(token_ids)
        if error is not None:
            failed.append(FailedRow(row, error, text, len(token_ids)))
            return
        try:
            self._hints.unknown_tokens(row)
            self._hints.equal_samples(row)
            params = self._with_bad_words(row.params)
            reading = self._parsers.reading(row, text, token_ids)
            if self._parsers.misses_calls:
                self._hints.unread_calls(row)
            constraint = self._constraint(params, reading)
        except RowError as refused:
            failed.append(FailedRow(row, refused, text, len(token_ids)))
            return
        num_samples = params.n if params.max_tokens else 1
        prompt = token_array(token_ids)  # millions of them wait
        requests = [
            self._request(row, sample, prompt, params, constraint) for sample in range(num_samples)
        ]
        ready.append(PreparedRow(row, text, prompt, requests, reading=reading))

    def _outside_vocabulary(self, token_ids: list[int]) -> RowError | None:
        low, high = min(token_ids), max(token_ids)
        if low >= 0 and high < self._codec.vocab_size:
            return None
        wrong = low if low < 0 else high
        text = (
            f"prompt_token_ids holds {wrong}; the model's ids end at {self._codec.vocab_size - 1}"
        )
        return RowError(ErrorCode.INVALID_ROW, text)

    def _with_bad_words(self, params: SamplingParams) -> SamplingParams:
        """Texts as ids, as vLLM has them: as they are, and as a word within a sentence."""
        if not params.bad_phrases:
            return params
        texts = [f"{space}{text.lstrip()}" for text in params.bad_phrases for space in ("", " ")]
        words = [tuple(ids) for ids in self._codec.encode_plain(texts) if ids]
        return replace(params, bad_words=tuple(dict.fromkeys((*params.bad_words, *words))))

    def _constraint(
        self, params: SamplingParams, reading: Reading | None
    ) -> Callable[[], Constraint] | None:
        wanted, budget = params.structured_outputs, params.thinking_token_budget
        grammar = None
        if wanted is not None:
            grammar = self._grammars.constraint(wanted, params.stop_token_ids, params.ignore_eos)
        return guided(reading, grammar, budget)

    def _request(
        self,
        row: InputRow,
        sample: int,
        token_ids: array[int],
        params: SamplingParams,
        constraint: Callable[[], Constraint] | None,
    ) -> Request:
        computed = num_computed(token_ids, params)
        return Request(
            request_id=request_id(row.index, sample),
            prompt_token_ids=token_ids if computed == len(token_ids) else token_ids[:computed],
            params=params,
            draw_key=0 if params.greedy else draw_key(params.seed, row.row_key, sample),
            output_token_ids=self._begun(row.index, sample, params),
            stop_checker=self._stop_checker(params) if params.stop else None,
            constraint=constraint,
            targets=None if sample else prompt_targets(token_ids, params),
        )

    def _stop_checker(self, params: SamplingParams) -> StopChecker | None:
        codec = self._codec if params.skip_special_tokens else with_special_tokens(self._codec)
        return make_stop_checker(codec, params.stop, params.min_tokens)

    def _begun(self, index: int, sample: int, params: SamplingParams) -> Sequence[int]:
        """Tokens an interrupted run saved; none where logprobs are asked for: those were lost."""
        wanted = (params.logprobs, params.prompt_logprobs)
        if self._inflight_tokens is None or wanted != (None, None):
            return ()
        return self._inflight_tokens(index, sample)
