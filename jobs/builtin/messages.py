"""Customer messages with their right answers, put together from phrases: what the model learns."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from builtin.grammar import Slot, read_lists, read_phrases, read_sections
from builtin.noise import Style, finish, write
from builtin.values import Amount, draw_amount, draw_order, other_numbers

__all__ = ["LABELS", "Message", "Writer"]

LABELS = ("delivery", "refund", "billing", "account", "technical", "cancel", "praise", "other")
_WEIGHTS = (13, 13, 13, 13, 13, 13, 11, 22)
_BEFORE = {
    "refund": ("delivery", "technical", "billing", "technical", "delivery"),
    "cancel": ("delivery", "technical", "billing", "delivery"),
}
"""What may have led to a refund or a cancellation: the label is what is asked for in the end."""
_ORDER, _AMOUNT = "\ue000", "\ue100"
"""Marks of values while the text around them is written; amounts count up from theirs."""
_NOUN = re.compile(r"\b(?:my|the|this|our) (?:order|parcel|package|delivery|shipment|purchase)\b")
_VALUES_APART = re.compile(f"[{_ORDER}{_AMOUNT}-\ue1ff]")
_LONG, _SPLICED = 0.02, 0.1


@dataclass(frozen=True, slots=True)
class Message:
    """`order`, `amount` (a JSON number) and `currency` are None where the text has none."""

    text: str
    label: str
    order: str | None
    amount: str | None
    currency: str | None

    @property
    def answer(self) -> str:
        """The JSON object that the model is to write."""
        order = "null" if self.order is None else f'"{self.order}"'
        currency = "null" if self.currency is None else f'"{self.currency}"'
        return (
            f'{{"label": "{self.label}", "order": {order}, '
            f'"amount": {self.amount or "null"}, "currency": {currency}}}'
        )


class Writer:
    """Writes messages. `names`: words of any kind, which stand in for things now and then."""

    def __init__(self, seed: int, names: Sequence[str] = ()) -> None:
        self._rng = random.Random(seed)
        self._names = names
        self._cores = {label: read_phrases(label) for label in LABELS}
        self._frame = read_sections("frame")
        self._amounts: list[Amount] = []
        self._slots = self._make_slots()

    def messages(self) -> Iterator[Message]:
        """Without end."""
        while True:
            message = self._message()
            if message.text.strip():
                yield message

    def _make_slots(self) -> dict[str, Slot]:
        slots: dict[str, Slot] = dict(other_numbers)
        for name, phrases in read_lists("lists").items():
            slots[name] = self._drawing(phrases)
        for name in ("sentence", "foreign"):
            slots[name] = self._drawing(read_phrases(name))
        for name in ("item", "items", "device", "app", "thing", "one"):
            slots[name] = self._any_name(slots[name])
        slots["order"] = lambda rng: _ORDER
        slots["amount"] = self._amount
        slots["currency"] = lambda rng: rng.choice(("euros", "dollars", "pounds", "francs", "USD"))
        slots["gibberish"] = _gibberish
        slots["snippet"] = _code
        return slots

    def _drawing(self, phrases: Any) -> Slot:
        return lambda rng: str(phrases.draw(rng, self._slots))

    def _any_name(self, slot: Slot) -> Slot:
        def draw(rng: random.Random) -> str:
            if self._names and rng.random() < 0.15:
                return rng.choice(self._names)
            return slot(rng)

        return draw

    def _amount(self, rng: random.Random) -> str:
        self._amounts.append(draw_amount(rng))
        return chr(ord(_AMOUNT) + len(self._amounts) - 1)

    def _message(self) -> Message:
        rng = self._rng
        self._amounts.clear()
        label = rng.choices(LABELS, _WEIGHTS)[0]
        style = Style(rng)
        parts = self._parts(label, rng)
        text = _joined([write(part, style, rng) for part in parts], style, rng)
        text = finish(text, style, rng)
        if rng.random() < 0.1 and label != "other":
            text = re.sub("[.!?]$", "", text)
        order = draw_order(rng) if _ORDER in text else None
        if order and style.lower and rng.random() < 0.5:
            order = order.lower()
        marks = [mark for mark in text if _AMOUNT <= mark <= "\ue1ff"]
        first = self._amounts[ord(marks[0]) - ord(_AMOUNT)] if marks else None
        text = text.replace(_ORDER, order or "")
        for at, amount in enumerate(self._amounts):
            text = text.replace(chr(ord(_AMOUNT) + at), amount.shown)
        value, currency = (first.value, first.currency) if first else (None, None)
        return Message(text, label, order, value, currency)

    def _draw(self, section: str) -> str:
        return self._frame[section].draw(self._rng, self._slots)

    def _parts(self, label: str, rng: random.Random) -> list[str]:
        """The message's sentences, without case or final points."""
        core = self._with_order(self._core(label), label)
        if label == "other":
            return self._other(core, rng)
        parts = [core]
        before = _BEFORE.get(label)
        if before and rng.random() < 0.35:
            parts.insert(0, self._core(rng.choice(before)))
        elif rng.random() < 0.3:
            parts.insert(rng.randrange(2), self._core(label))
        elif label != "praise":
            self._insert(parts, "kind", 0.06, first=True)
        return self._framed(parts, label, rng)

    def _core(self, label: str) -> str:
        """A phrase that carries the label; now and then the two halves of two such."""
        rng = self._rng
        core = self._cores[label].draw(rng, self._slots)
        if rng.random() < _SPLICED:
            first, second = core.split(" "), self._cores[label].draw(rng, self._slots).split(" ")
            return " ".join(first[: len(first) // 2 + 1] + second[len(second) // 2 :])
        return core

    def _framed(self, parts: list[str], label: str, rng: random.Random) -> list[str]:
        plain = rng.random() < 0.45
        self._insert(parts, "amountsentence", 0.1 if label not in ("account", "delivery") else 0.03)
        if not any(_ORDER in part for part in parts):
            self._insert(parts, "order", 0.45 if label not in ("account", "praise") else 0.22)
        if not plain:
            self._insert(parts, "number", 0.12)
            self._insert(parts, "filler", 0.3)
            if label != "praise":
                self._insert(parts, "annoyed", 0.15)
                self._insert(parts, "polite", 0.25, last=True)
        for _ in range(rng.randint(8, 40) if rng.random() < _LONG else 0):
            self._insert(parts, rng.choice(("filler", "number", "filler")), 1.0)
        if not plain and rng.random() < 0.4:
            parts.insert(0, self._draw("greeting"))
        self._insert(parts, "closing", 0.1 if plain else 0.3, last=True)
        return parts

    def _insert(
        self, parts: list[str], section: str, chance: float, last: bool = False, first: bool = False
    ) -> None:
        if self._rng.random() < chance:
            at = len(parts) if last else 0 if first else self._rng.randint(0, len(parts))
            parts.insert(at, self._draw(section))

    def _other(self, core: str, rng: random.Random) -> list[str]:
        parts = [core]
        if rng.random() < 0.2:
            parts.append(self._cores["other"].draw(rng, self._slots))
        for _ in range(rng.randint(5, 50) if rng.random() < 3 * _LONG else 0):
            parts.append(self._slots["sentence"](rng))
        if rng.random() < 0.15:
            parts.insert(0, self._draw("greeting"))
        self._insert(parts, "filler", 0.06)
        self._insert(parts, "number", 0.05)
        self._insert(parts, "order", 0.04)
        self._insert(parts, "closing", 0.1, last=True)
        return parts

    def _with_order(self, core: str, label: str) -> str:
        """The order's number inside the sentence, now and then."""
        rng = self._rng
        if label == "other" or _ORDER in core:
            return core
        found = _NOUN.search(core)
        if found and rng.random() < 0.25:
            return core[: found.start()] + self._draw("orderword") + core[found.end() :]
        if rng.random() < 0.08:
            joint = rng.choice(
                (" (order {})", ", order {}", " from order {}", " #{}", ", #{}", " ({})")
            )
            return core + joint.format(_ORDER)
        return core


def _joined(parts: list[str], style: Style, rng: random.Random) -> str:
    """Sentences one after the other, as this writer sets them apart."""
    joint = rng.choice((None, None, None, ", ", " - ", "\n", " ", "... ", "! ", "\n\n", "; "))
    ends = rng.choice((".", ".", ".", "!", "?", "!!", "?!", "..."))
    text = ""
    for at, part in enumerate(parts):
        asks = re.match(
            r"(?i)(what|who|where|when|why|how|can|could|do|does|is|are|will|which)\b", part
        )
        if not style.lower or rng.random() < 0.2:
            part = part[:1].upper() + part[1:]
        if at == len(parts) - 1:
            return text + part + ("" if not style.points else "?" if asks else ends)
        end = "?" if asks and rng.random() < 0.8 else rng.choice((".", ".", ".", ends, ",", ":"))
        chosen = joint if joint is not None else f"{end} "
        text += part + (
            chosen if style.points or joint is not None else rng.choice((" ", ", ", ". "))
        )
    return text


def _gibberish(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 10)))
    if kind < 0.5:
        return " ".join("".join(rng.choices("asdfjkl;qwe", k=rng.randint(2, 6))) for _ in range(3))
    if kind < 0.7:
        return "".join(rng.choices(string.punctuation, k=rng.randint(1, 12)))
    if kind < 0.85:
        return "".join(rng.choices("😀😂🎉👍🙏🔥🌳🐱❤️🚗🍕", k=rng.randint(1, 5)))
    return "".join(rng.choices(string.digits + " ", k=rng.randint(1, 9)))


def _code(rng: random.Random) -> str:
    name, other = rng.choice("abcfgnxyz"), rng.choice(("items", "rows", "users", "data", "total"))
    return rng.choice(
        (
            f"def {other}({name}): return {name} * 2",
            f"for {name} in {other}: print({name})",
            f"SELECT * FROM {other} WHERE {name} > 3",
            f"print({other})",
            f"{name} = [1, 2, 3]",
            f"function {other}({name}) {{ return {name} + 1; }}",
            f"import {other}",
            f"ls -la | grep {other}",
            f"<div class='{other}'>{name}</div>",
            f'{{"{other}": [{name}, 1]}}',
            f"git commit -m '{other}'",
            f"SELECT {name}, COUNT(*) FROM {other} GROUP BY {name}",
            f"if {name} == 0: raise ValueError",
            f"const {name} = await fetch({other})",
            f"while True: {other} += 1",
            f"{name}**2 + {name} - 1 = 0",
        )
    )
