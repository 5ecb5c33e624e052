"""Stop strings: found while tokens arrive, cut from the text at the end.

A string may begin inside one token and end inside another, and a character's bytes may be spread
over several: so text is compared, never token ids. Each call decodes only the new tokens and the
few before them that the decoder needs as context.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.engine.request import StopChecker
from batchgen.job.tokenizer import TextCodec

__all__ = ["make_stop_checker", "truncate"]

_CONTEXT_TOKENS = 6
"""Tokens before the new ones that a decoder may need: the bytes of one character (at most 4), and
the word whose leading space SentencePiece decoders drop."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def make_stop_checker(codec: TextCodec, stops: Sequence[str]) -> StopChecker | None:
    """The checker of one sequence: call it with all output ids so far, after each step.

    Returns None where there is nothing to look for. A stop string that is a special token (which
    decoding would skip) is found by its id. Of several strings in the text the one that begins
    first is named, of equals the one given first.
    """
    wanted = tuple(dict.fromkeys(stop for stop in stops if stop))
    return _StopChecker(codec, wanted) if wanted else None


def truncate(text: str, stop: str | None) -> str:
    """The text before the first `stop`; all of it where `stop` is None or does not occur."""
    return text if stop is None else text.split(stop, 1)[0]


class _StopChecker:
    """Keeps the tail of the text that could be the beginning of a stop string."""

    def __init__(self, codec: TextCodec, stops: tuple[str, ...]) -> None:
        self._codec = codec
        self._stops = stops
        self._special = {
            token_id: stop
            for stop in stops
            if (token_id := codec.special_token_id(stop)) is not None
        }
        self._keep = max(map(len, stops)) - 1
        self._tail = ""
        self._seen = 0
        """Ids whose text is in the tail, or before it."""

    def __call__(self, token_ids: Sequence[int]) -> str | None:
        for token_id in token_ids[self._seen :] if self._special else ():
            if token_id in self._special:
                return self._special[token_id]
        text, complete = self._text(token_ids)
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            return min(found, key=lambda pair: pair[0])[1]
        if complete:
            self._tail = text[max(0, len(text) - self._keep) :]
            self._seen = len(token_ids)
        return None

    def _text(self, token_ids: Sequence[int]) -> tuple[str, bool]:
        """The tail with the text of the ids not seen yet, and whether its last character is whole.

        A character that stays incomplete for long is no character: it is taken as it is.
        """
        context = max(0, self._seen - _CONTEXT_TOKENS)
        before, whole = self._codec.decode_batch(
            [token_ids[context : self._seen], token_ids[context:]]
        )
        pending = len(token_ids) - self._seen < _CONTEXT_TOKENS
        complete = not (pending and whole.endswith(_INCOMPLETE))
        new = whole[len(before) :]
        return self._tail + (new if complete else new.rstrip(_INCOMPLETE)), complete
