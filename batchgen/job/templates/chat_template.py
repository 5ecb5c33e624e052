"""Chat templates: rendered as transformers renders them, in jinja's sandbox, without transformers.

The environment is that of `apply_chat_template` (transformers 5): immutable sandbox, trimmed
blocks, loop controls, `{% generation %}` blocks, `tojson` that escapes nothing, `raise_exception`,
`strftime_now`. One difference: the clock stands still at the job's moment, so that a job that
crosses midnight renders all of its rows alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
import jinja2.ext
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser

from batchgen.errors import ErrorCode, RowError
from batchgen.job.templates.chat_shape import REASONING_KEYS, ChatShape
from batchgen.job.templates.sandbox import check_source, sandbox, variables_of

__all__ = ["Chat", "ChatTemplate", "Messages"]

Messages = Sequence[Mapping[str, Any]]
Chat = tuple[Messages, Mapping[str, Any]]
"""Messages, and what else the template reads of a row."""

_CONTINUE = "continue_final_message"
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
"""Put behind the text that is to be continued, as transformers does: what follows is cut off."""


class ChatTemplate:
    """A compiled template and what it reads: the tokenizer's special tokens, the job's clock."""

    noun, unit, flag = "chat template", "chat", "--chat-template"

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, Any],
        now: datetime | None = None,
        tool_use: str | None = None,
    ) -> None:
        """`tool_use`: another template, for chats with tools."""
        self.source = source
        self._tool_use = tool_use
        self._special_tokens = dict(special_tokens)
        self._now = now or datetime.now()
        self._shape = ChatShape(lambda messages: self._render_plain(messages, {}))

    def __reduce__(self) -> tuple[type[ChatTemplate], tuple[object, ...]]:
        """For the process that renders (`render_process`): what it is made from, in plain types."""
        plain = {name: _plain(token) for name, token in self._special_tokens.items()}
        return ChatTemplate, (self.source, plain, self._now, self._tool_use)

    @property
    def sources(self) -> str:
        """The text of all that it may render with."""
        return self.source + (self._tool_use or "")

    @property
    def reads_clock(self) -> bool:
        """Whether prompts may depend on when they are rendered."""
        return "strftime_now" in self.sources

    def check(self) -> None:
        """Raises UsageError where the template is no valid jinja."""
        check_source(self._environment, self.source, "chat template", "--chat-template")

    def unread(self, kwargs: Mapping[str, Any]) -> list[str]:
        """The names of these that the template never reads, so that they change nothing."""
        template = self._for(kwargs)
        known = template._variables
        if known is None:
            return []
        return [
            name
            for name, value in kwargs.items()
            if name not in known
            and name != _CONTINUE
            and not (name == "add_generation_prompt" and value)
        ]

    def render(self, messages: Messages, kwargs: Mapping[str, Any] | None = None) -> str:
        """The prompt's text, the assistant's turn opened (`add_generation_prompt`, unless `kwargs`
        says otherwise) or, with `continue_final_message` among them, its last message left open.
        Raises RowError(TEMPLATE_ERROR) for whatever the template raises."""
        if not messages:
            raise RowError(ErrorCode.TEMPLATE_ERROR, "messages is empty: nothing to render")
        given = dict(kwargs or {})
        template = self._for(given)
        if template is not self:
            return template.render(messages, given)
        field = given.pop(_CONTINUE, None)
        try:
            plain = self._shape.fitted(messages)
            if field:
                return self._continued(plain, "content" if field is True else str(field), given)
            return self._render_plain(plain, given)
        except RowError:
            raise
        except Exception as error:  # a template is a program that came with the model
            reason = str(error) or type(error).__name__
            raise RowError(ErrorCode.TEMPLATE_ERROR, f"chat template: {reason}") from error

    def _render_plain(self, messages: list[dict[str, Any]], kwargs: Mapping[str, Any]) -> str:
        variables = {
            "add_generation_prompt": True,
            "tools": None,
            "documents": None,
            **self._special_tokens,
            **kwargs,
            "messages": messages,
        }
        return self._compiled.render(variables)

    def _continued(
        self, messages: list[dict[str, Any]], field: str, kwargs: Mapping[str, Any]
    ) -> str:
        """The text up to the end of the last message's `field`."""
        last = messages[-1]
        final = _last_text(last.get(field))
        if final is None:
            text = f"continue_final_message: the last message has no {field} to continue"
            raise RowError(ErrorCode.TEMPLATE_ERROR, text)
        copies = [key for key in REASONING_KEYS if last.get(key) == last[field]]
        for key in copies if field in REASONING_KEYS else [field]:
            last[key] = _tagged(last[key])
        rendered = self._render_plain(messages, {**kwargs, "add_generation_prompt": False})
        if final.strip() not in rendered or _TAG.strip() not in rendered:
            text = "continue_final_message: the template leaves the last message's text out"
            raise RowError(ErrorCode.TEMPLATE_ERROR, text)
        place = rendered.rindex(_TAG.strip())
        if _TAG.strip() in rendered[:place]:
            text = f"continue_final_message: the template writes the last message's {field} twice"
            raise RowError(ErrorCode.TEMPLATE_ERROR, text)
        if rendered[place : place + len(_TAG)] == _TAG:
            return rendered[:place]
        return rendered[:place].rstrip()  # the template strips its messages

    def _for(self, kwargs: Mapping[str, Any]) -> ChatTemplate:
        """The template of a chat: as transformers, another one where there are tools."""
        return self._with_tools if self._tool_use and kwargs.get("tools") is not None else self

    @cached_property
    def _with_tools(self) -> ChatTemplate:
        assert self._tool_use is not None
        return ChatTemplate(self._tool_use, self._special_tokens, self._now)

    @cached_property
    def _variables(self) -> frozenset[str] | None:
        """The names that it reads; None where it cannot be parsed."""
        try:
            return variables_of(self._environment, self.source)
        except Exception:  # a template is a program that came with the model
            return None

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return self._environment.from_string(self.source)

    @cached_property
    def _environment(self) -> jinja2.Environment:
        environment = sandbox((_GenerationBlocks,), trim_blocks=True, lstrip_blocks=True)
        environment.globals["strftime_now"] = self._now.strftime
        return environment


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}`...`{% endgeneration %}` marks assistant text for training; inert here."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own attribute

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


def _plain(token: Any) -> Any:
    """Tokenizers have token objects, which stand for their text."""
    if isinstance(token, list | tuple):
        return [_plain(one) for one in token]
    return token if token is None or isinstance(token, bool) else str(token)


def _last_text(value: Any) -> str | None:
    """A string, or the last text among parts."""
    if isinstance(value, list):
        return next((part["text"] for part in reversed(value) if "text" in part), None)
    return value if isinstance(value, str) else None


def _tagged(value: Any) -> Any:
    if not isinstance(value, list):
        return value + _TAG
    last = max(i for i, part in enumerate(value) if "text" in part)
    return [
        {**part, "text": part["text"] + _TAG} if i == last else part for i, part in enumerate(value)
    ]
