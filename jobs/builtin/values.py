"""Order numbers, amounts of money, and the numbers that are neither."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

__all__ = ["Amount", "draw_amount", "draw_order", "other_numbers"]

_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}
_WORDS = {
    "USD": ("dollars", "dollars", "dollar", "bucks", "US dollars"),
    "EUR": ("euros", "euro", "Euro", "Euros"),
    "GBP": ("pounds", "pounds", "quid", "pound", "pounds sterling"),
    "CHF": ("francs", "Swiss francs"),
}
_CODES = ("USD", "USD", "USD", "EUR", "EUR", "EUR", "EUR", "GBP", "GBP", "GBP", "CHF", "CHF")
_BARE = 0.08
"""How often a sum with cents stands alone, without its currency."""
_CONSONANTS = "BCDFGHJKLMNPQRSTVWXZ"


@dataclass(frozen=True, slots=True)
class Amount:
    """`shown`: as the message has it. `value`: a JSON number. `currency`: an ISO 4217 code, or None
    where the message names none."""

    shown: str
    value: str
    currency: str | None


def _digits(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choices(string.digits, k=rng.randint(low, high)))


def _letters(rng: random.Random, low: int, high: int) -> str:
    pool = string.ascii_uppercase if rng.random() < 0.9 else string.ascii_lowercase
    return "".join(rng.choices(pool, k=rng.randint(low, high)))


def draw_order(rng: random.Random) -> str:
    """An order number: digits, mostly, with letters and parts in many makes."""
    kind = rng.random()
    if kind < 0.38:
        return _digits(rng, 4, 8)
    if kind < 0.52:
        return f"{_letters(rng, 1, 3)}-{_digits(rng, 2, 7)}"
    if kind < 0.62:
        return f"{_letters(rng, 1, 3)}{_digits(rng, 3, 7)}"
    if kind < 0.70:
        return f"{_digits(rng, 3, 6)}-{_letters(rng, 1, 2)}"
    if kind < 0.80:
        return f"{_digits(rng, 1, 4)}-{_digits(rng, 3, 6)}"
    if kind < 0.85:
        return f"{rng.choice(['ORD', 'WEB', 'PO', 'SO', 'INT', 'EU', 'UK'])}-{_digits(rng, 4, 8)}"
    return _in_parts(rng)


def _in_parts(rng: random.Random) -> str:
    kind, joint = rng.random(), rng.choice("---/_.")
    if kind < 0.4:
        return joint.join((_letters(rng, 1, 3), _digits(rng, 2, 5), _digits(rng, 1, 4)))
    if kind < 0.6:
        return joint.join((_digits(rng, 1, 4), _digits(rng, 2, 5), _digits(rng, 1, 3)))
    if kind < 0.75:
        return joint.join((_digits(rng, 2, 5), _letters(rng, 1, 2), _digits(rng, 2, 4)))
    mixed = "".join(rng.choices(string.digits + string.digits + string.ascii_uppercase, k=6))
    return f"{_digits(rng, 1, 1)}{mixed}{_digits(rng, 1, 2)}"


def draw_amount(rng: random.Random) -> Amount:
    code = rng.choice(_CODES) if rng.random() < 0.96 else rng.choice(("SEK", "CAD", "AUD", "PLN"))
    shown, value = _number(rng, code)
    if "." in shown and rng.random() < _BARE:
        return Amount(shown, value, None)
    return Amount(_with_currency(rng, shown, code), value, code)


def _number(rng: random.Random, code: str) -> tuple[str, str]:
    whole = rng.choice((rng.randint(1, 20), rng.randint(5, 99), rng.randint(10, 400)))
    if rng.random() < 0.1:
        whole = rng.randint(400, 5000)
    if rng.random() < 0.5:
        shown = f"{whole:,}" if rng.random() < 0.5 else str(whole)
        return shown, str(whole)
    cents = rng.choice(("99", "95", "50", "00", "90", f"{rng.randrange(100):02}"))
    if code in ("EUR", "CHF", "SEK", "PLN") and rng.random() < 0.25:
        return f"{whole},{cents}", f"{whole}.{cents}"
    return (f"{whole:,}" if rng.random() < 0.5 else str(whole)) + f".{cents}", f"{whole}.{cents}"


def _with_currency(rng: random.Random, number: str, code: str) -> str:
    kind = rng.random()
    if code in _SYMBOLS and kind < 0.45:
        symbol = _SYMBOLS[code]
        before = rng.random() < (0.65 if code == "EUR" else 0.93)
        gap = rng.choice(("", "", "", " ")) if before or code == "USD" else rng.choice(("", " "))
        return f"{symbol}{gap}{number}" if before else f"{number}{gap}{symbol}"
    if code in _WORDS and kind < 0.75:
        return f"{number} {rng.choice(_WORDS[code])}"
    code = code.lower() if rng.random() < 0.08 else code
    return (
        f"{code} {number}" if rng.random() < 0.2 else f"{number}{rng.choice((' ', ' ', ''))}{code}"
    )


def _phone(rng: random.Random) -> str:
    return rng.choice(("0", "+44 ", "+49 ", "(0)", "001-")) + " ".join(
        _digits(rng, 2, 4) for _ in range(rng.randint(2, 4))
    )


def _tracking(rng: random.Random) -> str:
    return rng.choice(("1Z", "JD", "RR", "00", "LX")) + _letters(rng, 0, 2) + _digits(rng, 8, 14)


_MONTHS = (
    "January",
    "May",
    "June",
    "March",
    "July",
    "August",
    "October",
    "December",
    "April",
    "November",
)


def _date(rng: random.Random) -> str:
    day, month = rng.randint(1, 31), rng.choice(_MONTHS)
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    return rng.choice(
        (
            f"{day} {month}",
            f"{month} {day}",
            f"the {day}{suffix}",
            f"{day}.{rng.randint(1, 12)}.",
            f"{day}/{rng.randint(1, 12)}",
            f"{day}{suffix} of {month}",
            f"{day} {month[:3]}",
            f"{rng.randint(2018, 2027)}-{rng.randint(1, 12):02}-{day:02}",
            f"the {day}{suffix} of {month}",
        )
    )


def _code(rng: random.Random) -> str:
    return rng.choice(
        (
            f"E{_digits(rng, 1, 3)}",
            f"0x{rng.randrange(1 << 32):08X}",
            _digits(rng, 2, 4),
            f"{_letters(rng, 1, 2)}-{_digits(rng, 1, 3)}",
            f"F{_digits(rng, 1, 2)}",
            f"#{_digits(rng, 2, 3)}",
        )
    )


def _email(rng: random.Random) -> str:
    name = "".join(rng.choice(_CONSONANTS).lower() + rng.choice("aeiou") for _ in range(3))
    return (
        f"{name}{rng.choice(('', '.', '_', '7', '22'))}@example.{rng.choice(('com', 'org', 'net'))}"
    )


other_numbers = {
    "phone": _phone,
    "tracking": _tracking,
    "invoice": lambda rng: rng.choice(("INV-", "R", "2024-", "RE", "")) + _digits(rng, 4, 7),
    "zip": lambda rng: _digits(rng, 5, 5),
    "customer": lambda rng: rng.choice(("C", "K-", "", "KD", "T-")) + _digits(rng, 4, 8),
    "model": lambda rng: f"{_letters(rng, 1, 3)}{rng.choice(('-', '', ' '))}{_digits(rng, 2, 4)}",
    "version": lambda rng: ".".join(_digits(rng, 1, 2) for _ in range(rng.randint(2, 3))),
    "email": _email,
    "time": lambda rng: f"{rng.randint(0, 23)}:{rng.randrange(60):02}",
    "date": _date,
    "code": _code,
    "year": lambda rng: str(rng.randint(1900, 2027)),
    "n": lambda rng: rng.choice(
        (
            str(rng.randint(2, 10)),
            str(rng.randint(1, 60)),
            "two",
            "three",
            "four",
            "five",
            "six",
            "a few",
        )
    ),
}
