"""A JSON Schema as llguidance is given it: what it would hold less strictly than the schema says is
written out in words that it holds, or refused.

It reads numbers as binary fractions, and of dates the form alone; it allows a name twice; keys that
are none it passes over, so that a slip of the pen (`additonalProperties`) loosens a schema.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import reduce
from typing import Any, TypeGuard

from batchgen.engine.grammar.keywords import NAMED, VALUES, is_keyword, meant_keyword

__all__ = ["strict_schema"]

_EXACT = 1 << 53
"""Integers up to here are numbers of 64 bits, and those are what is read."""
_MOST = (1 << 63) - 1024
"""The largest of those beyond which 64 bits hold; llguidance has no larger bounds."""
_DIGITS, _PLACES = 15, 22
"""Of a number that is read and written again without being rounded."""
_MOST_MULTIPLE = (1 << 32) - 1
_LEAP_YEAR = r"(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DATE = (
    rf"^(\d{{4}}-(0[13-9]|1[0-2])|\d{{4}}-02-([01]|2[0-8])|{_LEAP_YEAR}-02-29)",
    r"^0{0,3}[1-9]",  # there was no year 0
)
_PATTERNS = {
    "date": _DATE,
    "date-time": (*_DATE, r"^.{17}[0-5]"),  # no leap seconds, which most readers refuse
    "time": (r"^.{6}[0-5]",),
}
"""What else a text of these formats has to match."""
_BOUNDS = {
    **dict.fromkeys(("minimum", "exclusiveMinimum"), ROUND_CEILING),
    **dict.fromkeys(("maximum", "exclusiveMaximum"), ROUND_FLOOR),
}
_OPEN = {1: ("exclusiveMinimum", "minimum"), -1: ("exclusiveMaximum", "maximum")}


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, or one that allows a little less. Raises ValueError for what would not be
    held."""
    if schema.get("x-guidance"):
        raise ValueError("x-guidance, which may allow what is no JSON, is not served")
    _check_multiples(schema)
    strict: dict[str, Any] = _strict(schema)
    return strict


def _strict(value: Any, *, is_schema: bool = True) -> Any:
    """`is_schema`: a schema, not what a key without a meaning has, where one may be referred to."""
    if isinstance(value, list):
        return [_strict(item, is_schema=is_schema) for item in value]
    if not isinstance(value, dict):
        return value
    if is_schema:
        _check_keywords(value)
    _check_values(value)
    _check_names(value)
    strict = {key: _inner(key, item, is_schema) for key, item in value.items()}
    for key in _BOUNDS.keys() & value.keys():
        strict[key] = _inward(value[key], _BOUNDS[key])
    for sign, bound in _OPEN.items():
        _close(strict, sign, *bound)
    name, more = value.get("format"), strict.get("allOf", [])
    patterns = _PATTERNS.get(name, ()) if isinstance(name, str) else ()
    if patterns and isinstance(more, list):
        strict["allOf"] = [*more, *({"pattern": one} for one in patterns)]
    return strict


def _inner(key: str, value: Any, is_schema: bool) -> Any:
    if key in VALUES:
        return value
    if key in NAMED and isinstance(value, dict):
        return {name: _strict(item, is_schema=is_schema) for name, item in value.items()}
    return _strict(value, is_schema=is_schema and is_keyword(key))


def _check_keywords(schema: dict[str, Any]) -> None:
    for key, value in schema.items():
        if meant := meant_keyword(key, value):
            raise ValueError(f"{key!r} is no keyword, so nothing would hold it: is {meant} meant?")


def _check_values(schema: dict[str, Any]) -> None:
    for number in _numbers([schema.get("enum"), schema.get("const")]):
        if not _is_held(number):
            raise ValueError(f"{number} has more digits than are kept: a string keeps them")


def _check_names(schema: dict[str, Any]) -> None:
    """Names beyond those that are required are not held to differ."""
    least, required = schema.get("minProperties"), schema.get("required") or []
    is_open = schema.get("additionalProperties") is not False or schema.get("patternProperties")
    if not (isinstance(least, int) and isinstance(required, list) and is_open):
        return
    if least > len({*map(str, required)}) + 1:
        raise ValueError(f"minProperties {least}: a name could come twice; require names")


def _check_multiples(schema: Any) -> None:
    """Of numbers that are multiples of several: what all of them together divide."""
    found = {*_multiples(schema)}
    unit = min((number.as_tuple().exponent for number in found), default=0)
    if len(found) > 1 and isinstance(unit, int):
        whole = [int(number.scaleb(-min(unit, 0))) for number in found]
        if reduce(math.lcm, whole) > _MOST_MULTIPLE:
            raise ValueError("its values of multipleOf have too large a common multiple")


def _multiples(value: Any) -> Iterator[Decimal]:
    if isinstance(value, dict):
        number = value.get("multipleOf")
        if _is_number(number) and number > 0:
            yield Decimal(repr(number))
    inner: Collection[Any] = value.values() if isinstance(value, dict) else value
    for item in inner if isinstance(value, dict | list) else ():
        yield from _multiples(item)


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif _is_number(value):
        yield value


def _is_held(number: int | float) -> bool:
    """Whether it is read and written again as the same."""
    if isinstance(number, int):
        return abs(number) <= _EXACT or (abs(number) <= _MOST and int(float(number)) == number)
    parts = Decimal(repr(number)).normalize().as_tuple()
    is_short = isinstance(parts.exponent, int) and parts.exponent >= -_PLACES
    return is_short and len(parts.digits) <= _DIGITS and abs(number) <= _EXACT


def _inward(bound: Any, rounding: str) -> Any:
    """A bound that is held, next to this one, so that no number beyond this one is allowed."""
    if not _is_number(bound) or _is_held(bound):
        return bound
    if abs(bound) <= _EXACT:
        near = Context(prec=_DIGITS, rounding=rounding).create_decimal(repr(bound))
        smallest = Decimal(1).scaleb(-_PLACES)
        return float(near.quantize(smallest, rounding) if abs(near) < 1 else near)
    sign = 1 if rounding == ROUND_CEILING else -1
    if sign * bound > _MOST:
        raise ValueError(f"{bound} is a bound beyond 64 bits")
    whole = max(-_MOST, math.ceil(sign * bound))
    found = float(whole)
    return sign * int(found if found >= whole else math.nextafter(found, math.inf))


def _close(schema: dict[str, Any], sign: int, opened: str, closed: str) -> None:
    """Give a bound that is a whole number and excluded as the next number that is not: where the
    other bound is less than 1 away, it would be allowed."""
    bound = schema.get(opened)
    if not _is_number(bound) or bound % 1 or sign * bound < 0:
        return
    others = [value for name in _OPEN[-sign] if _is_number(value := schema.get(name))]
    if any(0 < sign * (other - bound) < 1 for other in others):
        whole = Decimal(abs(int(bound)))
        near = float(whole.next_plus(Context(prec=_DIGITS)) if whole else 10.0**-_DIGITS)
        del schema[opened]
        schema[closed] = sign * max(sign * schema.get(closed, sign * near), near)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float)
