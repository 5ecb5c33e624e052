"""What is said once of prompts that may not be what was meant: on stderr, not in a row."""

from __future__ import annotations

import logging

from batchgen.job.rows import InputRow
from batchgen.job.text.tokenizer import TextCodec

__all__ = ["Hints"]

_MOST_TOLD = 100
_log = logging.getLogger(__name__)


class Hints:
    """Remembers what it has said."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._told_two_bos = False
        self._told_unread: set[str] = set()

    def unread_settings(self, row: InputRow) -> None:
        """Say once of a name that the chat template does not read it."""
        template = self._codec.template
        if template is None or not row.template_kwargs:
            return
        for name in template.unread(row.template_kwargs):
            if name not in self._told_unread and len(self._told_unread) < _MOST_TOLD:
                self._told_unread.add(name)
                text = "%s: %s changes nothing: the chat template does not read it (said once)"
                _log.warning(text, row.origin, name)

    def two_bos(self, row: InputRow, token_ids: list[int]) -> None:
        """Raw text is encoded as transformers encodes it; only chats are brought to one BOS."""
        bos = self._codec.bos_token_id
        if bos is None or self._told_two_bos or token_ids[:2] != [bos, bos]:
            return
        self._told_two_bos = True
        text = (
            "%s: the prompt begins with the model's BOS token, and the tokenizer adds one, so that "
            "it has two; leave it out of the text (said once)"
        )
        _log.warning(text, row.origin)
