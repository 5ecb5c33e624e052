"""Stop strings: found while tokens arrive, cut from the text at the end.

A string may begin inside one token and end inside another, and a character's bytes may be spread
over several: so text is compared, never token ids. Where a text's bytes are its tokens' bytes, they
are looked up. Otherwise each call decodes the new tokens and the few before them that the decoder
needs as context. What is complete before `min_tokens` tokens are there is no stop, then or later,
as in vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchgen.engine.request import StopChecker
from batchgen.job.text.text_codec import TextCodec

__all__ = ["make_stop_checker", "num_exempt_characters", "truncate"]

_CONTEXT_TOKENS = 6
"""Tokens before the new ones that a decoder may need: the bytes of one character (at most 4), and
the word whose leading space SentencePiece decoders drop."""
_MAX_BYTES = 4
"""Of one character in UTF-8."""
_MOST_WAITING = 64
"""Tokens that may go by without a text that ends with a whole character."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def make_stop_checker(
    codec: TextCodec, stops: Sequence[str], min_tokens: int = 0
) -> StopChecker | None:
    """The checker of one sequence: call it with all output ids so far, at least `min_tokens` of
    them, after each step.

    Returns None where there is nothing to look for. A stop string that is a special token (which
    decoding would skip) is found by its id. Of several strings in the text the one that begins
    first is named, of equals the one given first.
    """
    wanted = tuple(dict.fromkeys(stop for stop in stops if stop))
    if not wanted:
        return None
    texts = codec.text_bytes
    if texts is None or not all(map(_has_bytes, wanted)):
        return _StopChecker(codec, wanted, min_tokens)
    return _ByteStopChecker(texts, wanted, _special_ids(codec, wanted), min_tokens)


def num_exempt_characters(codec: TextCodec, token_ids: Sequence[int], min_tokens: int) -> int:
    """How many characters of the text are there before `min_tokens` tokens are: for `truncate`."""
    return len(_exempt(codec, token_ids, min_tokens)[1]) if min_tokens > 1 else 0


def truncate(text: str, stop: str | None, num_exempt: int = 0, *, keep_stop: bool = False) -> str:
    """The text before the first `stop` that ends past its first `num_exempt` characters, or up to
    its end with `keep_stop`; all of it where `stop` is None or does not occur."""
    if stop is None or (at := _find(text, stop, num_exempt)) < 0:
        return text
    return text[: at + len(stop) if keep_stop else at]


def _find(text: str, stop: str, num_exempt: int) -> int:
    return text.find(stop, max(0, num_exempt - len(stop) + 1))


def _exempt(codec: TextCodec, token_ids: Sequence[int], min_tokens: int) -> tuple[int, str]:
    """All but the last of the first `min_tokens` ids, as far as they are whole characters: how many
    ids, and their text."""
    most = min_tokens - 1
    for count in range(most, max(0, most - _CONTEXT_TOKENS), -1):
        text = codec.decode_batch([token_ids[:count]])[0]
        if not text.endswith(_INCOMPLETE):
            return count, text
    return 0, ""


def _has_bytes(stop: str) -> bool:
    """Whether it is found by its bytes: a lone surrogate has none, and what is shown of broken
    characters has others."""
    return _INCOMPLETE not in stop and not any("\ud800" <= letter <= "\udfff" for letter in stop)


def _special_ids(codec: TextCodec, stops: Sequence[str]) -> dict[int, str]:
    found = ((codec.special_token_id(stop), stop) for stop in stops)
    return {token_id: stop for token_id, stop in found if token_id is not None}


class _ByteStopChecker:
    """Looks for the bytes of stop strings in those of tokens; `texts` by token, `special`: stops
    by the ids of special tokens."""

    def __init__(
        self,
        texts: Mapping[int, bytes],
        stops: tuple[str, ...],
        special: dict[int, str],
        min_tokens: int,
    ) -> None:
        self._texts = texts
        self._stops = [(stop.encode(), stop) for stop in stops]
        self._special = special
        self._keep = max(len(data) for data, _ in self._stops) - 1
        self._num_exempt = max(0, min_tokens - 1)
        self._seen = 0
        self._tail = b""
        """The last bytes of the tokens seen, a stop's less one."""

    def __call__(self, token_ids: Sequence[int]) -> str | None:
        if self._seen < self._num_exempt:
            self._take(self._bytes_of(token_ids[: self._num_exempt]), self._num_exempt)
        new = token_ids[self._seen :]
        for token_id in new if self._special else ():
            if token_id in self._special:
                return self._special[token_id]
        data, num_old = self._tail + self._bytes_of(new), len(self._tail)
        found = [
            (at, stop)
            for wanted, stop in self._stops
            if (at := data.find(wanted, max(0, num_old - len(wanted) + 1))) >= 0
        ]
        if found:
            return min(found, key=lambda pair: pair[0])[1]
        self._take(data, len(token_ids))
        return None

    def _bytes_of(self, token_ids: Sequence[int]) -> bytes:
        return b"".join([self._texts[token_id] for token_id in token_ids])

    def _take(self, data: bytes, seen: int) -> None:
        self._tail, self._seen = data[max(0, len(data) - self._keep) :], seen


class _StopChecker:
    """Keeps the tail of the text that could be the beginning of a stop string."""

    def __init__(self, codec: TextCodec, stops: tuple[str, ...], min_tokens: int) -> None:
        self._codec = codec
        self._stops = stops
        self._special = _special_ids(codec, stops)
        self._keep = max(map(len, stops)) - 1
        self._min_tokens = min_tokens
        self._tail = ""
        self._seen = 0
        """Ids whose text is in the tail, or before it."""

    def __call__(self, token_ids: Sequence[int]) -> str | None:
        if self._min_tokens > 1 and not self._seen:
            self._seen, text = _exempt(self._codec, token_ids, self._min_tokens)
            self._tail = self._end_of(text)
        for token_id in token_ids[self._seen :] if self._special else ():
            if token_id in self._special:
                return self._special[token_id]
        text, complete = self._text(token_ids)
        num_old = len(self._tail)
        found = [(at, stop) for stop in self._stops if (at := _find(text, stop, num_old)) >= 0]
        if found:
            return min(found, key=lambda pair: pair[0])[1]
        if complete:
            self._take(token_ids, text)
        return None

    def _take(self, token_ids: Sequence[int], text: str) -> None:
        """These ids count as seen. Of a text that was broken for long not the last ones: a whole
        character may have begun in them."""
        num_open = _MAX_BYTES - 1 if text.endswith(_INCOMPLETE) else 0
        for count in range(len(token_ids) - num_open, len(token_ids)):
            start = self._text(token_ids[:count])[0] if count > self._seen else None
            if start is not None and text.startswith(start):  # else it ends within a character
                text, token_ids = start, token_ids[:count]
                break
        self._tail, self._seen = self._end_of(text), len(token_ids)

    def _window(self, token_ids: Sequence[int], start: int) -> tuple[str, str]:
        """Text of the ids seen from `start` on, and of those with the new ones.

        Bytes that follow each other are decoded together, and one that is out of place spoils them
        all: so a window that begins inside a character begins before it instead.
        """
        for begin in range(start, max(-1, start - _MAX_BYTES), -1):
            before, whole = self._codec.decode_batch(
                [token_ids[begin : self._seen], token_ids[begin:]]
            )
            if begin and not before:  # special tokens alone are no context
                return self._window(token_ids, max(0, begin - _CONTEXT_TOKENS))
            if _INCOMPLETE not in before:
                return before, whole
            if begin == start:
                first = before, whole
        return first

    def _end_of(self, text: str) -> str:
        return text[max(0, len(text) - self._keep) :]

    def _text(self, token_ids: Sequence[int]) -> tuple[str, bool]:
        """The tail with the text of the ids not seen yet, and whether its last character is whole.

        A character that stays incomplete for long is no character: it is taken as it is.
        """
        before, whole = self._window(token_ids, max(0, self._seen - _CONTEXT_TOKENS))
        waiting = len(token_ids) - self._seen
        broken = len(whole) - len(whole.rstrip(_INCOMPLETE))
        # Tokens that each end within a character, as in Chinese, leave every text so for a while.
        pending = waiting < _CONTEXT_TOKENS or (broken < _MAX_BYTES and waiting < _MOST_WAITING)
        complete = not (pending and broken)
        new = whole[len(before) :]
        return self._tail + (new if complete else new.rstrip(_INCOMPLETE)), complete
