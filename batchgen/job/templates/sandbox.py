"""What chat templates and row templates share: jinja's sandbox, its filters, a check before use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes as nodes
from jinja2.meta import TrackingCodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchgen.errors import UsageError

__all__ = ["check_source", "read_template", "sandbox", "variables_of"]


def sandbox(
    extensions: Sequence[type[jinja2.ext.Extension]] = (), **options: Any
) -> jinja2.Environment:
    """An immutable sandbox with loop controls, a `tojson` that escapes nothing, and
    `raise_exception`."""
    environment = ImmutableSandboxedEnvironment(
        extensions=[*extensions, jinja2.ext.loopcontrols], **options
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def check_source(environment: jinja2.Environment, source: str, what: str, flag: str) -> None:
    """Raises UsageError where a template is no valid jinja. It is parsed alone: compiling computes
    what is constant, which may take all memory (`render_process`)."""
    try:
        for node in environment.parse(source).find_all((nodes.Filter, nodes.Test)):
            known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
            if node.name not in known:
                kind = type(node).__name__.lower()
                raise jinja2.TemplateError(f"line {node.lineno}: no {kind} named {node.name!r}")
    except jinja2.TemplateSyntaxError as error:
        raise _wrong(what, flag, f"line {error.lineno}: {error}") from error
    except (jinja2.TemplateError, RecursionError) as error:
        raise _wrong(what, flag, str(error)) from error


def variables_of(environment: jinja2.Environment, source: str) -> frozenset[str]:
    """The names that a template reads from outside, as `jinja2.meta.find_undeclared_variables`
    finds them. Raises whatever parsing raises."""
    finder = _Names(environment)
    finder.visit(environment.parse(source))
    return frozenset(finder.undeclared_identifiers)


class _Names(TrackingCodeGenerator):
    """jinja's own generator computes what is constant, which may take all memory; this one does
    not."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.optimizer = None

    def _output_child_to_const(self, *args: Any) -> str:
        raise nodes.Impossible


def read_template(value: str, flag: str) -> str:
    """A template: a file's, or the text itself. Raises UsageError where neither."""
    if "{%" in value or "{{" in value:
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{flag} {value}: cannot be read: {error}.", "Name a jinja file."
        ) from error


def _wrong(what: str, flag: str, reason: str) -> UsageError:
    why = reason.rstrip(".")
    return UsageError(
        f"The {what} does not compile: {why}.", f"Correct it, or give another with {flag}."
    )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
