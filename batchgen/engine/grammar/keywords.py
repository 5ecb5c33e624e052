"""The keywords of JSON Schema, and what is likely meant to be one."""

from __future__ import annotations

from typing import Any

__all__ = ["NAMED", "VALUES", "is_keyword", "meant_keyword"]

VALUES = frozenset(("const", "default", "enum", "examples"))
"""What these have is no schema, but values."""
NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
"""What these have is an object of schemas, by names that are no keywords."""

_LIST, _OBJECT, _SCHEMA, _NUMBER = (list,), (dict,), (dict, bool, list), (int, float)
_CONSTRAINING: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("allOf", "anyOf", "enum", "oneOf", "prefixItems", "required"), _LIST),
    **dict.fromkeys(("dependentRequired", "patternProperties", "properties"), _OBJECT),
    **dict.fromkeys(("additionalItems", "additionalProperties", "contains", "items"), _SCHEMA),
    **dict.fromkeys(("propertyNames", "unevaluatedItems", "unevaluatedProperties"), _SCHEMA),
    **dict.fromkeys(("maximum", "minimum", "multipleOf"), _NUMBER),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum"), _NUMBER),
    **dict.fromkeys(("maxContains", "maxItems", "maxLength", "maxProperties"), _NUMBER),
    **dict.fromkeys(("minContains", "minItems", "minLength", "minProperties"), _NUMBER),
    **dict.fromkeys(("$ref", "format", "pattern"), (str,)),
    "dependencies": _OBJECT,
    "type": (str, list),
    "uniqueItems": (bool,),
}
"""With the kinds of their values. What is no such value is not meant as one."""
_OTHERS = frozenset(
    ("contentEncoding", "contentMediaType", "contentSchema", "else", "id", "if", "not", "then")
)


def is_keyword(key: str) -> bool:
    """Whether it means something in some draft, other than a name or a note."""
    return key in _CONSTRAINING or key in NAMED or key in VALUES or key in _OTHERS


def meant_keyword(key: str, value: Any) -> str | None:
    """The constraining keyword that a key without a meaning is a slip of: in its letters' case, a
    sign between them, or one letter. None for any other key, and one that begins with a sign, as
    what is put out of use does."""
    if is_keyword(key) or not key[:1].isalpha():
        return None
    letters = _letters(key)
    for word, kinds in _CONSTRAINING.items():
        if isinstance(value, kinds) and _is_near(letters, _letters(word)):
            return word
    return None


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word)).lower()


def _is_near(word: str, right: str) -> bool:
    """Whether they are the same, or one letter is another, missing, too much or in the place of its
    neighbour."""
    if len(word) == len(right):
        wrong = [
            place for place, pair in enumerate(zip(word, right, strict=True)) if len({*pair}) > 1
        ]
        ends = wrong[0] if wrong else 0, wrong[-1] + 1 if wrong else 0
        swapped = word[slice(*ends)] == right[slice(*ends)][::-1]
        return len(wrong) < 2 or (len(wrong) == 2 and ends[1] - ends[0] == 2 and swapped)
    short, long = sorted((word, right), key=len)
    return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
