"""What the process of a command that only looks ahead begins: it reads a tokenizer, no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.job.model.files import ModelFiles

__all__ = ["prepare_ahead"]


def prepare_ahead(files: ModelFiles | None, *, own_process: bool) -> None:
    """Quick imports, where the process is ours."""
    if own_process and files is not None:
        from batchgen.engine.processes.preparing import prepare_tokenizer

        prepare_tokenizer(files.config)
