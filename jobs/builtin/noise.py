"""How people write: contractions, abbreviations, little words, slips, case and punctuation."""

from __future__ import annotations

import random
import re

from builtin.grammar import read_table

__all__ = ["Style", "finish", "write"]

_CONTRACTIONS = read_table("contractions")
_SHORT, _SYNONYMS = read_table("short"), read_table("synonyms")
_LITTLE = read_table("little")["any"]
_WORD = re.compile(r"[A-Za-z']+")
_CAREFUL = 0.4
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


class Style:
    """One writer's habits, the same through a message."""

    def __init__(self, rng: random.Random) -> None:
        kind = rng.random()
        self.lower = kind < 0.24
        self.upper = 0.24 <= kind < 0.27
        self.contract = rng.choice((0.0, 0.5, 1.0))
        self.short = (
            rng.choice((0.0, 0.0, 0.0, 0.1, 0.5)) if not self.lower else rng.choice((0, 0.2, 0.6))
        )
        self.synonym = rng.choice((0.0, 0.1, 0.4))
        self.little = rng.choice((0.0, 0.0, 0.0, 0.1, 0.3))
        self.drop = rng.choice((0.0, 0.0, 0.0, 0.0, 0.02, 0.06))
        self.slips = rng.choice((0, 0, 0, 0, 1, 1, 2, 3))
        self.apostrophes = rng.random() > (0.5 if self.lower else 0.1)
        self.points = rng.random() > (0.5 if self.lower else 0.03)
        if rng.random() < _CAREFUL:
            self.short = self.little = self.drop = 0.0
            self.slips = 0


def write(text: str, style: Style, rng: random.Random) -> str:
    """A sentence in the writer's words; private-use characters stand for values."""
    if rng.random() < style.contract:
        for long, short in _CONTRACTIONS.items():
            if long in text:
                text = text.replace(long, short[0])
    words = text.split(" ")
    words = [_word(word, style, rng) for word in words if rng.random() >= style.drop]
    if words and rng.random() < style.little:
        words.insert(rng.randrange(len(words)), rng.choice(_LITTLE))
    text = " ".join(words) or text
    if not style.apostrophes:
        text = text.replace("'", "")
    return text


def _word(word: str, style: Style, rng: random.Random) -> str:
    if word in _SYNONYMS and rng.random() < style.synonym:
        return rng.choice(_SYNONYMS[word])
    if word in _SHORT and rng.random() < style.short:
        return rng.choice(_SHORT[word])
    return word


def finish(text: str, style: Style, rng: random.Random) -> str:
    """Slips and case over the whole message."""
    for _ in range(style.slips):
        text = _slip(text, rng)
    if style.upper:
        return text.upper()
    if style.lower:
        text = text.lower()
    return text


def _beside(letter: str, rng: random.Random) -> str:
    """What the finger hits instead: a key to the left or right."""
    row = next((row for row in _KEYS if letter in row), letter)
    at = row.index(letter)
    return rng.choice(row[max(0, at - 1) : at] + row[at + 1 : at + 2] or letter)


def _slip(text: str, rng: random.Random) -> str:
    words = [match for match in _WORD.finditer(text) if len(match[0]) > 3]
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start(), word.end() - 1)
    kind = rng.random()
    if kind < 0.3:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind < 0.6:
        return text[:at] + text[at + 1 :]
    if kind < 0.73:
        return text[:at] + text[at] + text[at:]
    if kind < 0.83 and text[word.end() : word.end() + 1] == " ":
        return text[: word.end()] + text[word.end() + 1 :]
    if kind < 0.9:
        return text[: at + 1] + _beside(text[at + 1], rng) + text[at + 2 :]
    return text[:at] + rng.choice("abcdefghijklmnoprstuvwy") + text[at + 1 :]
