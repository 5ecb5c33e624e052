"""Rows whose prompt `--template` makes: columns in, the prompt or the user's message filled in."""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.errors import RowError
from batchgen.job.rows import InputRow
from batchgen.job.templates.render_process import RenderProcess
from batchgen.job.templates.row_template import RowTemplate

__all__ = ["RowPrompts"]


class RowPrompts:
    """Renders in a process of its own, which bounds what a row may take."""

    def __init__(self, template: RowTemplate) -> None:
        self._process = RenderProcess(template)

    def fill(self, rows: Sequence[InputRow]) -> None:
        """Every row that has columns gets its prompt, or its error."""
        waiting = [row for row in rows if row.columns is not None and row.error is None]
        texts = self._process.render([(row.columns, row.origin) for row in waiting])
        for row, text in zip(waiting, texts, strict=True):
            _fill(row, text)

    def close(self) -> None:
        """No more rows come."""
        self._process.close()


def _fill(row: InputRow, text: str | RowError) -> None:
    row.columns = None
    if isinstance(text, RowError):
        row.error, row.prompt = text, None
    elif row.messages is not None:
        row.messages[-1]["content"] = text
    else:
        row.prompt = text
