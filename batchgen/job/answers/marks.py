"""Tags that are tokens, told apart from text that only looks like them.

A model that writes about `</think>` writes it in pieces; one that ends its thinking takes the one
token of that name. So ids are decoded with such tokens standing between two noncharacters, which
Unicode keeps for a program's own use; a tag that its tokenizer does not have as a token is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from batchgen.engine.request import Shared

__all__ = ["RAW", "Decoder", "Marks", "Wish"]

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARK = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


class Decoder(Protocol):
    """What is asked of a tokenizer."""

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Ids as text."""

    def token_id(self, text: str) -> int | None:
        """The id of `text` where the tokenizer has it, whole, as one token."""

    def special_token_id(self, text: str) -> int | None:
        """The same where that token is special: decoding leaves it out."""

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Pieces of text as ids."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a row wants special tokens in its text."""

    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


RAW = Wish(skip_special_tokens=False)
"""What stands within a call, whatever the row wants of its text."""


class Marks(Shared):
    """The tags of one tokenizer's answers."""

    def __init__(self, decoder: Decoder, tags: Iterable[str]) -> None:
        self._decoder = decoder
        known = ((tag, decoder.token_id(tag)) for tag in dict.fromkeys(tags))
        self._tags = {token: tag for tag, token in known if token is not None}
        self._ids = {tag: token for token, tag in self._tags.items()}
        self._known_special: dict[int, bool] = {}
        self._special = {
            tag for tag in self._tags.values() if decoder.special_token_id(tag) is not None
        }
        by_length = sorted(self._tags.values(), key=len, reverse=True)
        self._in_text = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")

    def token(self, tag: str) -> int | None:
        """The id of a tag that is one token."""
        return self._ids.get(tag)

    def ids(self, text: str) -> list[int]:
        """Text as ids, its tags as tokens."""
        return self._decoder.encode_plain([text])[0]

    def written(self, text: str) -> str:
        """`text` as `marked` shows it, its tags being tokens where they can be."""
        return self._in_text.sub(lambda found: f"{_OPEN}{found[0]}{_CLOSE}", text)

    def marked(self, token_ids: Sequence[int], wish: Wish) -> str:
        """Ids as text in which tokens that are tags stand apart."""
        runs: list[list[int]] = [[]]
        between: list[str] = []
        for token in token_ids:
            if token in self._tags:
                between.append(self._tags[token])
                runs.append([])
            else:
                runs[-1].append(token)
        texts = self._texts(runs, wish)
        tags = [f"{_OPEN}{tag}{_CLOSE}" for tag in between]
        return "".join(part for pair in zip(texts, [*tags, ""], strict=True) for part in pair)

    def _texts(self, runs: list[list[int]], wish: Wish) -> list[str]:
        if wish.skip_special_tokens or wish.spaces_between_special_tokens:
            return self._decoder.decode_batch(runs, wish.skip_special_tokens)
        return ["".join(self._decoder.decode_batch(_apart(run, self._is_special), False))
                for run in runs]  # fmt: skip

    def _is_special(self, token: int) -> bool:
        known = self._known_special
        if token not in known:
            skipped = self._decoder.decode_batch([[token]])[0]
            known[token] = not skipped and bool(self._decoder.decode_batch([[token]], False)[0])
        return known[token]

    def plain(self, marked: str, wish: Wish) -> str:
        """Marked text as the row is to have it: special tokens left out, unless it wants them."""
        return _MARK.sub(lambda found: self._shown(found[1], wish), marked)

    def without_end(self, marked: str, length: int, wish: Wish) -> str:
        """Marked text less the last `length` characters of its plain text."""
        while length > 0 and marked:
            mark = re.search(f"{_MARK.pattern}$", marked)
            size = 1 if mark is None else len(self._shown(mark[1], wish))
            marked = marked[: -1 if mark is None else mark.start()]
            length -= size
        return marked

    def _shown(self, tag: str, wish: Wish) -> str:
        return "" if wish.skip_special_tokens and tag in self._special else tag


def _apart(token_ids: Sequence[int], is_special: Callable[[int], bool]) -> list[list[int]]:
    """Ids in pieces, so that no special token is decoded with the one before it: a decoder that
    puts spaces between tokens then puts none there."""
    pieces: list[list[int]] = [[]]
    for token in token_ids:
        if pieces[-1] and is_special(token) and is_special(pieces[-1][-1]):
            pieces.append([])
        pieces[-1].append(token)
    return pieces
