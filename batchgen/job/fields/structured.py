"""What a completion must match, under every name: OpenAI's response_format, vLLM's
structured_outputs and guided_*, SGLang's json_schema, regex and ebnf.

Only the form is checked here; whether a grammar can be enforced is the compiler's to say
(`engine.grammar`), which knows the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from batchgen.engine.grammar.keywords import NAMED, VALUES
from batchgen.engine.request import GrammarKind, StructuredOutput
from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown

__all__ = ["STRUCTURED_NAMES", "read_structured"]

_MAX_CHOICES = 10_000
_NULLS = ("const", "default")
"""Keywords whose null is a value; any other null is a column that Arrow filled up."""
_ANY_OBJECT = '{"type": "object"}'

_Reader = Callable[[Any], StructuredOutput | None]


def read_structured(given: Mapping[str, Any]) -> dict[str, StructuredOutput | None]:
    """{"structured_outputs": ...} of the names that are set, or {}. A format of plain text is None:
    it takes back what the job asks for.

    RowError: INVALID_PARAM for a form that is none and for two that differ, INVALID_SCHEMA for text
    that is no JSON, UNSUPPORTED_SETTING for what is known and not served.
    """
    if _NAMES.isdisjoint(given):
        return {}
    found = {name: given[name] for name in STRUCTURED_NAMES if _is_set(given.get(name))}
    _check_whitespace(found)
    pattern = found.pop("guided_whitespace_pattern", None)
    read = {name: _READERS[name](value) for name, value in found.items()}
    if pattern is not None:
        read = {name: _with_whitespace(one, pattern) for name, one in read.items()}
    if len(set(read.values())) > 1:
        text = f"{' and '.join(read)} ask for different outputs: keep one of them"
        raise RowError(ErrorCode.INVALID_PARAM, text)
    return {"structured_outputs": next(iter(read.values()))} if read else {}


def _is_set(value: Any) -> bool:
    return value not in (None, "", []) and value is not False


def _check_whitespace(found: Mapping[str, Any]) -> None:
    if found and found.keys() <= {"guided_whitespace_pattern"}:
        raise _invalid("guided_whitespace_pattern", "given with a schema", None)


def _with_whitespace(one: StructuredOutput | None, pattern: Any) -> StructuredOutput | None:
    if not isinstance(pattern, str):
        raise _invalid("whitespace_pattern", "a regular expression", pattern)
    if one is None or one.kind is not GrammarKind.JSON_SCHEMA:
        raise _invalid("whitespace_pattern", "given with a schema", pattern)
    return StructuredOutput(one.kind, one.text, pattern)


def _response_format(value: Any) -> StructuredOutput | None:
    value = _object("response_format", value)
    if not value:
        return None
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema")
        return _any_object(True) if schema is None else _schema(schema)
    if kind == "json_schema":
        inner = value.get("json_schema") or value
        schema = inner.get("schema", inner.get("json_schema")) if isinstance(inner, dict) else None
        if schema is None:
            raise _invalid("response_format.json_schema", 'an object with "schema"', inner)
        return _schema(schema)
    if kind == "regex" and "pattern" in value:
        return _regex(value["pattern"])
    if kind == "grammar" and "grammar" in value:
        return _grammar(value["grammar"])
    if kind == "structural_tag":
        raise _unserved("response_format of type structural_tag")
    raise _invalid("response_format.type", "text, json_object or json_schema", kind)


def _structured_outputs(value: Any) -> StructuredOutput | None:
    """vLLM's StructuredOutputsParams, and GuidedDecodingParams as it was called before."""
    value = {k: v for k, v in _object("structured_outputs", value).items() if _is_set(v)}
    for name in ("structural_tag", "disable_additional_properties"):
        if name in value:
            raise _unserved(f"structured_outputs.{name}")
    for name in ("backend", "disable_fallback"):  # there is one, so nothing to fall back to
        value.pop(name, None)
    if not value:
        return None
    pattern = "" if value.pop("disable_any_whitespace", False) else None
    pattern = value.pop("whitespace_pattern", pattern)
    unknown = sorted(value.keys() - _VLLM.keys())
    if unknown or len(value) != 1:
        wanted = f"an object with one of {', '.join(_VLLM)}"
        raise _invalid("structured_outputs", wanted, sorted(value))
    ((name, inner),) = value.items()
    one = _VLLM[name](inner)
    return one if pattern is None else _with_whitespace(one, pattern)


def _schema(value: Any) -> StructuredOutput:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(ErrorCode.INVALID_SCHEMA, "the JSON Schema is no JSON") from None
    if not isinstance(value, dict | bool):
        text = f"a JSON Schema is an object, not {shown(value)}"
        if hasattr(value, "model_json_schema"):
            text = "of a pydantic model the JSON Schema is given: model_json_schema()"
        raise RowError(ErrorCode.INVALID_SCHEMA, text)
    return StructuredOutput(GrammarKind.JSON_SCHEMA, json.dumps(_without_nulls(value)))


def _without_nulls(value: Any, *, named: bool = False) -> Any:
    """Arrow gives every object of a column all keys of all rows; no keyword's value is null.
    `named`: its keys are names of schemas."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    if named:
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return {
        key: item if key in VALUES else _without_nulls(item, named=key in NAMED)
        for key, item in value.items()
        if item is not None or key in _NULLS
    }


def _any_object(value: Any) -> StructuredOutput | None:
    return StructuredOutput(GrammarKind.JSON_SCHEMA, _ANY_OBJECT) if value else None


def _regex(value: Any) -> StructuredOutput:
    if not isinstance(value, str):
        raise _invalid("a regular expression", "a string", value)
    return StructuredOutput(GrammarKind.REGEX, value)


def _grammar(value: Any) -> StructuredOutput:
    if not isinstance(value, str):
        raise _invalid("a grammar", "a string (Lark's or GBNF)", value)
    return StructuredOutput(GrammarKind.GRAMMAR, value)


def _choice(value: Any) -> StructuredOutput:
    good = isinstance(value, list | tuple) and 0 < len(value) <= _MAX_CHOICES
    if not good or not all(isinstance(item, str) and item for item in value):
        raise _invalid("a choice", "a list of non-empty strings", value)
    choices = " | ".join(json.dumps(item) for item in value)
    # One terminal: of rules llguidance follows 2,000 at a time.
    return StructuredOutput(GrammarKind.GRAMMAR, f"start: CHOICE\nCHOICE: {choices}")


def _object(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _invalid(name, "a JSON object", value) from None
    if not isinstance(value, dict):
        raise _invalid(name, "an object", value)
    return value


def _invalid(name: str, wanted: str, value: Any) -> RowError:
    return RowError(ErrorCode.INVALID_PARAM, f"{name} must be {wanted}, not {shown(value)}")


def _unserved(what: str) -> RowError:
    return RowError(ErrorCode.UNSUPPORTED_SETTING, f"{what} is not served")


_VLLM: dict[str, _Reader] = {
    "json": _schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _any_object,
}
_READERS: dict[str, _Reader] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_decoding": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "guided_json_object": _any_object,
    "json_schema": _schema,
    "regex": _regex,
    "ebnf": _grammar,
}
STRUCTURED_NAMES = (*_READERS, "guided_whitespace_pattern")
"""Every parameter that says what a completion must match."""
_NAMES = frozenset(STRUCTURED_NAMES)
