"""Rows as the model will see them: the rendered prompt, its tokens, and who set what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.ahead.opening import OpenedJob
from batchgen.job.rows import InputRow

__all__ = ["RowPreview", "Setting", "Wanted", "previews"]

_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: by `index` or id where any are named, else the first `count`."""

    count: int = 3
    indices: frozenset[int] = frozenset()
    ids: frozenset[str] = frozenset()

    def of(self, rows: Iterator[InputRow]) -> Iterator[InputRow]:
        """These rows, read no further than the last of them."""
        if not self.indices and not self.ids:
            yield from islice(rows, self.count)
            return
        left = len(self.indices) + len(self.ids)
        for row in rows:
            named = (row.index in self.indices) + (row.output_id in self.ids)
            if named:
                left -= named
                yield row
            if not left:
                return


@dataclass(frozen=True, slots=True)
class Setting:
    """`origin`: row, flag, environment, generation_config, built-in."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class RowPreview:
    """One row. `prompt` is the text that is tokenised; None for token ids. `pieces` are the tokens'
    texts. `cut`: the prompt is longer than what is served of it."""

    origin: str
    index: int
    id: str
    error_code: str | None = None
    error_message: str | None = None
    prompt: str | None = None
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    cut: bool = False
    settings: dict[str, Setting] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Of the prompt."""
        return len(self.token_ids)


def previews(job: OpenedJob, wanted: Wanted, set_by: Mapping[str, str]) -> Iterator[RowPreview]:
    """`set_by`: parameter -> flag or environment, of those that the command line set."""
    rows = wanted.of(iter(job.reader))
    while chunk := list(islice(rows, _CHUNK)):
        for row in chunk:
            yield _preview(job, row, set_by)


def _preview(job: OpenedJob, row: InputRow, set_by: Mapping[str, str]) -> RowPreview:
    cut_before = job.requests.num_cut
    ready, failed = job.prepare([row])
    cut = job.requests.num_cut > cut_before
    error, made = (None, ready[0]) if ready else (failed[0].error, None)
    ids = [] if made is None else list(made.prompt_token_ids)
    return RowPreview(
        origin=row.origin,
        index=row.index,
        id=row.output_id,
        error_code=None if error is None else _code(error, job),
        error_message=None if error is None else error.message,
        prompt=row.prompt if made is None else made.prompt,
        token_ids=ids,
        pieces=[job.codec.token_bytes(one).decode("utf-8", "replace") for one in ids],
        cut=cut,
        settings=_settings(job, row, set_by),
    )


def _code(error: RowError, job: OpenedJob) -> str:
    skips = job.spec.input.overlong == "skip" and error.code is ErrorCode.PROMPT_TOO_LONG
    return "skipped" if skips else str(error.code)


def _settings(job: OpenedJob, row: InputRow, set_by: Mapping[str, str]) -> dict[str, Setting]:
    """Sampling parameters and what the chat template reads, each with where it came from."""
    base = job.reader.base_params
    model = {} if job.files is None else job.files.generation_defaults
    found = {}
    for one in fields(SamplingParams):
        value = getattr(row.params, one.name)
        origin = "row" if value != getattr(base, one.name) else set_by.get(one.name)
        name = "bad_words_ids" if one.name == "bad_words" else one.name
        origin = origin or ("generation_config" if name in model else "built-in")
        found[one.name] = Setting(value, origin)
    flags = job.spec.input.chat_template_kwargs
    for name, value in row.template_kwargs.items():
        own = name not in flags or flags[name] != value
        found[name] = Setting(value, "row" if own else set_by.get("chat_template_kwargs", "flag"))
    return found | _about_text(job, row, set_by)


def _about_text(job: OpenedJob, row: InputRow, set_by: Mapping[str, str]) -> dict[str, Setting]:
    """Template, system message and what becomes of a long prompt."""
    spec, found = job.spec, {}
    if row.messages is not None:
        origin = set_by.get("chat_template", "model")
        found["chat_template"] = Setting(spec.chat_template or "the model's", origin)
        first = row.messages[0] if row.messages else {}
        if first.get("role") in ("system", "developer"):
            given = first.get("content") == spec.input.system
            origin = set_by.get("system", "flag") if given else "row"
            found["system"] = Setting(first.get("content"), origin)
    if spec.input.template is not None:
        found["template"] = Setting(spec.input.template, set_by.get("template", "flag"))
    cut = row.truncate_prompt_tokens
    if cut is not None:
        found["truncate_prompt_tokens"] = Setting(cut, "row")
    found["overlong"] = Setting(spec.input.overlong, set_by.get("overlong", "built-in"))
    return found
