"""`--template`: a jinja template that makes a prompt of a row's columns.

Strict: a column that the row lacks, and a null that would be written as `None`, are errors of the
row. jinja's own defaults otherwise (blocks keep their line ends, one newline at the end is
dropped), but for what would make a prompt depend on more than its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jinja2
import jinja2.nodes as nodes
from jinja2.runtime import StrictUndefined
from jinja2.utils import missing

from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.quoting import shown
from batchgen.job.templates.sandbox import check_source, read_template, sandbox, variables_of

__all__ = ["WHOLE_ROW", "RowTemplate"]

WHOLE_ROW = "row"
"""By this name a template reads columns whose own are no identifiers: `{{ row['my column'] }}`."""
_FLAG = "--template"
_OTHER_FILES: tuple[type[nodes.Stmt], ...] = (
    nodes.Extends,
    nodes.FromImport,
    nodes.Import,
    nodes.Include,
)
_MOST_NAMED = 12


class RowTemplate:
    """One template. `name` is what messages call it."""

    noun, unit, flag = "row template", "row", _FLAG

    def __init__(self, source: str, name: str) -> None:
        self.source, self.name = source, name

    @classmethod
    def read(cls, value: str) -> RowTemplate:
        """A file's, or the text itself; checked. Raises UsageError."""
        source = read_template(value, _FLAG)
        template = cls(source, _FLAG if source == value else Path(value).name)
        check_source(template._environment, source, "row template", _FLAG)
        for other in template._environment.parse(source).find_all(_OTHER_FILES):
            text = f"{template.name}:{other.lineno}: a row template is one file; it reads no other"
            raise UsageError(text, "Write the other file's text into it.")
        return template

    def __reduce__(self) -> tuple[type[RowTemplate], tuple[str, str]]:
        """For the process that renders."""
        return RowTemplate, (self.source, self.name)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The columns that it reads; `WHOLE_ROW` among them: any."""
        return variables_of(self._environment, self.source) - self._environment.globals.keys()

    def reads(self, name: str) -> bool:
        """Whether a column of that name may stand in the prompt."""
        return not self.variables.isdisjoint({name, WHOLE_ROW})

    def near_miss(self, name: str, columns: Mapping[str, Any]) -> str:
        """`; did you mean 'text'?`, where a column has a like name."""
        near = get_close_matches(name, [str(column) for column in columns], 1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def render(self, columns: Mapping[str, Any], origin: str) -> str:
        """The prompt. RowError TEMPLATE_ERROR says where in the template, and in the input."""
        try:
            return self._compiled.render({WHOLE_ROW: columns, **columns})
        except _MissingError as error:
            what = self._missing(error, columns)
            raise self._failed(error, what, origin) from error
        except _NullError as error:
            raise self._failed(error, self._null(columns), origin) from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self._failed(error, reason, origin) from error

    def _failed(self, error: Exception, what: str, origin: str) -> RowError:
        line = _line_of(error.__traceback__)
        place = self.name if line is None else f"{self.name}:{line}"
        return RowError(ErrorCode.TEMPLATE_ERROR, f"{place}: {Path(origin).name}: {what}")

    def _missing(self, error: _MissingError, columns: Mapping[str, Any]) -> str:
        if error.holder is missing or error.holder is columns:
            has = shown(list(columns)[:_MOST_NAMED])
            near = self.near_miss(error.name, columns)
            return f"the row has no column {error.name!r}{near or f'; it has {has}'}"
        near = self.near_miss(error.name, error.holder) if isinstance(error.holder, Mapping) else ""
        return f"{error}{near}"

    def _null(self, columns: Mapping[str, Any]) -> str:
        read = columns if WHOLE_ROW in self.variables else self.variables & columns.keys()
        null = [name for name in sorted(read) if columns[name] is None]
        which = f" (null here: {', '.join(null[:_MOST_NAMED])})" if null else ""
        name = null[0] if null else "x"
        return f"a null would be written{which}; if it is to be nothing: {{{{ {name} or '' }}}}"

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return self._environment.from_string(self.source)

    @cached_property
    def _environment(self) -> jinja2.Environment:
        environment = sandbox(undefined=_Strict, finalize=_no_null)
        del environment.filters["random"]
        del environment.globals["lipsum"]
        return environment


class _MissingError(jinja2.UndefinedError):
    """A name that nothing has. `holder`: of which object; `missing` for the row itself."""

    def __init__(self, holder: Any, name: Any, message: str | None) -> None:
        super().__init__(message)
        self.holder, self.name = holder, str(name)


class _NullError(jinja2.TemplateRuntimeError):
    """A null came to be written."""


class _Strict(StrictUndefined):
    """Says what is missing of what."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: Any = None,
        exc: Any = jinja2.UndefinedError,
    ) -> None:
        error: Any = partial(_MissingError, obj, name)
        super().__init__(hint, obj, name, error if exc is jinja2.UndefinedError else exc)


def _no_null(value: Any) -> Any:
    if value is None:
        raise _NullError
    return value


def _line_of(traceback: TracebackType | None) -> int | None:
    """The template's line: the innermost one, of which jinja writes the traceback."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
