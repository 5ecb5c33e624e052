"""Phrase grammars: `(a|b|)` chooses, `<name>` calls a list or a function; one phrase a line."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Phrases", "Slot", "read_lists", "read_phrases", "read_sections", "read_table"]

FOLDER = Path(__file__).parent / "grammar"
Slot = Callable[[random.Random], str]
Node = str | tuple["Node", ...] | list["Node"]
"""A text, a sequence (tuple) or a choice (list). A text `<name>` is a slot."""


def read_phrases(name: str) -> Phrases:
    return Phrases((FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines())


def read_sections(name: str) -> dict[str, Phrases]:
    """A file of `[section]` headings and their lines."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        else:
            lines.append(line)
    return {heading: Phrases(lines) for heading, lines in found.items()}


def read_lists(name: str) -> dict[str, Phrases]:
    """A file of `name: a|b|c` lines; an item may hold slots."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ", 1) for line in lines]
    return {key: Phrases([f"({items})"]) for key, items in pairs}


def read_table(name: str) -> dict[str, list[str]]:
    """A file of `word: what stands for it|another` lines, nothing nested."""
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ", 1) for line in lines]
    return {word: others.split("|") for word, others in pairs}


class Phrases:
    """Phrases of one kind, drawn evenly."""

    def __init__(self, lines: list[str]) -> None:
        self.nodes = [_parse(line) for line in lines if line.strip()]

    def draw(self, rng: random.Random, slots: Mapping[str, Slot]) -> str:
        """One phrase with its choices made and its slots filled."""
        pieces: list[str] = []
        _expand(rng.choice(self.nodes), rng, slots, pieces)
        return " ".join("".join(pieces).split()).replace(" ,", ",").replace(" .", ".")


def _expand(node: Node, rng: random.Random, slots: Mapping[str, Slot], out: list[str]) -> None:
    if isinstance(node, list):
        _expand(rng.choice(node), rng, slots, out)
    elif isinstance(node, tuple):
        for part in node:
            _expand(part, rng, slots, out)
    elif node[:1] == "<" and node[1:-1] in slots:
        out.append(slots[node[1:-1]](rng))
    else:
        out.append(node)


def _parse(line: str) -> Node:
    node, end = _sequence(line, 0)
    if end != len(line):
        raise ValueError(f"A bracket is closed that was not opened: {line!r}, character {end + 1}")
    return node


def _sequence(line: str, at: int) -> tuple[Node, int]:
    """Parse up to the end, or to a `|` or `)` that belongs to the caller."""
    parts: list[Node] = []
    text = ""
    while at < len(line) and line[at] not in "|)":
        if line[at] in "(<":
            if text:
                parts.append(text)
                text = ""
            part, at = _choice(line, at + 1) if line[at] == "(" else _slot(line, at)
            parts.append(part)
        else:
            text += line[at]
            at += 1
    return tuple([*parts, text] if text else parts), at


def _choice(line: str, at: int) -> tuple[Node, int]:
    options: list[Node] = []
    while True:
        option, at = _sequence(line, at)
        options.append(option)
        if at >= len(line):
            raise ValueError(f"A bracket is not closed: {line!r}")
        at += 1
        if line[at - 1] == ")":
            return options, at


def _slot(line: str, at: int) -> tuple[str, int]:
    end = line.find(">", at)
    if end < 0:
        return line[at], at + 1
    return line[at : end + 1], end + 1
