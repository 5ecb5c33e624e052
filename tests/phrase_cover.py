"""Which texts the phrases of the built-in model's generator can make.

Generous on purpose: a thing may be any word, a number, date or sum any words with a digit, and
punctuation does not count. What is not covered is made by slips and swapped words at most.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from builtin.grammar import Node, Phrases, read_lists, read_phrases, read_sections, read_table
from builtin.messages import LABELS

_SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\s+-+\s+|\n+")
_NUMBER_WORDS = {"one", "two", "three", "four", "five", "six", "few"}
_NONSENSE = {"gibberish", "snippet"}


def can_make(text: str) -> bool:
    """Every sentence comes from a phrase, and one of them carries a label."""
    parts = [_plain(part) for part in _SENTENCE.split(text)]
    parts = [part for part in parts if part.strip()]
    cores = [_covers("core", part) for part in parts]
    return any(cores) and all(
        core or _covers("frame", part) for part, core in zip(parts, cores, strict=True)
    )


@cache
def _plain(text: str) -> str:
    """Lower-case words without contractions, a space around each."""
    text = text.lower().replace("\u2019", "'")
    for long, shorts in read_table("contractions").items():
        text = re.sub(rf"\b{re.escape(shorts[0].lower())}\b", long.lower(), text)
    return re.sub(r"[^\w']+", " ", f" {text} ")


@cache
def _nodes(kind: str) -> list[tuple[Node, list[tuple[str, ...]]]]:
    """Of the phrases that carry a label, or of those that any message may have; their clauses."""
    if kind == "core":
        nodes = [node for label in LABELS for node in read_phrases(label).nodes]
    else:
        nodes = [node for section in read_sections("frame").values() for node in section.nodes]
    return [(node, _clauses(node)) for node in nodes]


@cache
def _things() -> dict[str, Phrases]:
    named = {name: read_phrases(name) for name in ("sentence", "foreign")}
    return read_lists("lists") | named


def _covers(kind: str, plain: str) -> bool:
    reading = _Reading(plain)
    return any(
        all(any(piece in plain for piece in clause) for clause in clauses) and reading.whole(node)
        for node, clauses in _nodes(kind)
    )


class _Reading:
    """One plain text, and where each piece of a phrase may end in it."""

    def __init__(self, plain: str) -> None:
        self._text = plain
        self._seen: dict[tuple[int, int], set[int]] = {}
        self._slots: dict[tuple[str, int], set[int]] = {}

    def whole(self, node: Node) -> bool:
        return bool(self._ends(node, 1) & {len(self._text), len(self._text) - 1})

    def _ends(self, node: Node, at: int) -> set[int]:
        if isinstance(node, str):
            if node[:1] != "<":
                return self._literal(_piece(node), at)
            if (node, at) not in self._slots:
                self._slots[node, at] = self._slot(node[1:-1], at)
            return self._slots[node, at]
        key = (id(node), at)
        if key not in self._seen:
            self._seen[key] = set().union(*self._parts(node, at))
        return self._seen[key]

    def _parts(self, node: Node, at: int) -> Iterator[set[int]]:
        if isinstance(node, list):
            yield from (self._ends(option, at) for option in node)
            return
        places = {at}
        for part in node:
            places = set().union(*(self._ends(part, place) for place in places))
            if not places:
                break
        yield places

    def _literal(self, piece: str, at: int) -> set[int]:
        for letter in piece:
            if self._text[at : at + 1] == letter:
                at += 1
            elif letter != " " or (at and self._text[at - 1] != " "):
                return set()
        return {at}

    def _slot(self, name: str, at: int) -> set[int]:
        at += self._text[at : at + 1] == " "
        if name in _NONSENSE:
            return set()
        if name not in _things():
            return self._number(at)
        ends = set().union(*(self._ends(node, at) for node in _things()[name].nodes))
        return ends | (self._words(at, 1) if name in ("item", "items", "device", "app") else set())

    def _words(self, at: int, count: int) -> set[int]:
        """Where the first `count` words from here end."""
        return {
            at + end for end in [m.end() for m in re.finditer(r"[\w']+", self._text[at:])][:count]
        }

    def _number(self, at: int) -> set[int]:
        return {
            end
            for end in self._words(at, 4)
            if re.search(r"\d", self._text[at:end])
            or _NUMBER_WORDS & set(self._text[at:end].split())
        }


def _clauses(node: Node) -> list[tuple[str, ...]]:
    """Whatever the phrase makes holds one piece of each: most phrases are told apart by that."""
    if isinstance(node, str):
        return [] if node[:1] == "<" else [(_piece(node).strip(),)]
    if isinstance(node, tuple):
        return [clause for part in node for clause in _clauses(part)]
    found: list[str] = []
    for option in node:
        if not (single := [clause for clause in _clauses(option) if len(clause) == 1]):
            return []
        found += max(single, key=lambda clause: len(clause[0]))
    return [tuple(found)]


@cache
def _piece(piece: str) -> str:
    """A phrase's text as `_plain` writes it, its outer spaces kept only where it has them."""
    plain = _plain(piece)
    start = 1 if piece[:1] and re.match(r"[\w']", piece) else 0
    end = len(plain) - (1 if piece and re.search(r"[\w']$", piece) else 0)
    return plain[start:end]
