"""A JSON Schema's words are held to the letter, or refused: what llguidance reads less strictly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.grammar.keywords import meant_keyword
from batchgen.engine.request import StructuredOutput
from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.params import read_params

pytest.importorskip("llguidance")

VOCAB, EOS = 262, 261  # llguidance's vocabulary of bytes
INTEGER, STRING = {"type": "integer"}, {"type": "string"}


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return GrammarCompiler(lambda: "byte", VOCAB, (EOS,))


def allows(grammars: GrammarCompiler, schema: Any, text: str) -> bool:
    """Whether a completion may be this text, and end there."""
    return follows(grammars, read_params({"guided_json": schema})["structured_outputs"], text)


def follows(grammars: GrammarCompiler, wanted: StructuredOutput, text: str) -> bool:
    """Whether this is a whole text of what is wanted."""
    constraint = grammars.constraint(wanted)()
    whole = False
    for byte in [*text.encode(), EOS]:
        mask = np.zeros(VOCAB // 32 + 1, dtype=np.int32)
        if whole:
            return byte == EOS
        constraint.fill(mask)
        if not mask.view(np.uint8)[byte // 8] >> byte % 8 & 1:
            return False
        whole = byte != EOS and constraint.advance(byte, 999)
    return True


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "2023-02-28"], ["2023-02-29", "2100-02-29"]),
        ("date", ["0001-01-31"], ["0000-01-31", "2024-04-31", "2024-02-30"]),
        ("date-time", ["2024-02-29T23:59:59Z"], ["2023-02-29T00:00:00Z", "2024-01-01T23:59:60Z"]),
        ("time", ["23:59:59.25+01:00"], ["23:59:60Z", "24:00:00Z"]),
    ],
)
def test_a_date_is_a_day_of_the_calendar_and_a_time_one_that_readers_know(
    grammars: GrammarCompiler, name: str, good: list[str], bad: list[str]
) -> None:
    schema = {"type": "object", "properties": {"at": STRING | {"format": name}}}
    assert all(allows(grammars, schema, json.dumps({"at": text})) for text in good)
    assert not any(allows(grammars, schema, json.dumps({"at": text})) for text in bad)
    held = {"format": name, "allOf": [{"pattern": "^2"}]}
    assert [allows(grammars, held, json.dumps(text)) for text in good] == [
        text.startswith("2") for text in good
    ]


def test_a_property_is_held_to_its_schema_however_its_name_is_written(
    grammars: GrammarCompiler,
) -> None:
    schema = {"properties": {"a": INTEGER}, "required": ["a"], "additionalProperties": STRING}
    assert allows(grammars, schema, '{"a":1,"b\\n":"é\\n"}')
    assert not allows(grammars, schema, '{"a":1,"\\u0061":"x"}')
    assert allows(grammars, {"const": "\x01"}, '"\\u0001"')


def test_a_number_has_the_schema_s_digits_or_the_schema_is_refused(
    grammars: GrammarCompiler,
) -> None:
    for value in (2**53, -(2**60), 0.1, -12.75, 1e-9, 10**18):
        assert allows(
            grammars, {"enum": ["x", [value]]}, f"[{value:{'.9f' if value == 1e-9 else ''}}]"
        )
    for value in (2**53 + 1, 1234567890123456789, 0.12345678901234567):
        with pytest.raises(RowError, match="more digits") as caught:
            allows(grammars, {"properties": {"id": {"const": {"at": value}}}}, "")
        assert caught.value.code == ErrorCode.INVALID_SCHEMA


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (INTEGER | {"minimum": 2**53 + 1}, 2**53 + 2, 2**53),
        (INTEGER | {"maximum": -(2**53) - 1}, -(2**53) - 2, -(2**53)),
        (INTEGER | {"minimum": -(2**63), "maximum": 2**63 - 1}, -5, 2**63),
        (INTEGER | {"minimum": -(2**63), "maximum": 2**64}, 7, 2**64 + 1),
        ({"type": "number", "minimum": 0.12345678901234567}, 0.2, 0.1234567890123456),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, 0.25, 0),
        ({"type": "number", "exclusiveMinimum": 11, "exclusiveMaximum": 11.5}, 11.25, 11),
        ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, -0.25, 0),
        ({"type": "number", "minimum": -3.5, "exclusiveMaximum": -3}, -3.25, -3),
        ({"type": "number", "minimum": 0, "maximum": 0.5}, 0, 0.75),
    ],
    ids=str,
)
def test_no_number_beyond_a_bound_is_allowed(
    grammars: GrammarCompiler, schema: Any, good: float, bad: float
) -> None:
    assert allows(grammars, schema, json.dumps(good))
    assert not allows(grammars, schema, json.dumps(bad))
    assert not allows(grammars, schema, f"-{bad}")


def test_multiples_of_several_numbers_are_multiples_of_each(grammars: GrammarCompiler) -> None:
    both = INTEGER | {"multipleOf": 6, "allOf": [{"multipleOf": 4}]}
    assert allows(grammars, both, "12")
    assert not allows(grammars, both, "18")
    with pytest.raises(RowError, match="multipleOf"):
        allows(grammars, INTEGER | {"multipleOf": 65536, "allOf": [{"multipleOf": 65537}]}, "")


def test_names_that_could_come_twice_do_not_count_as_several(grammars: GrammarCompiler) -> None:
    schema = {"type": "object", "required": ["a"], "additionalProperties": INTEGER}
    assert not allows(grammars, schema | {"minProperties": 2}, '{"a":1}')
    assert allows(grammars, schema | {"minProperties": 2}, '{"a":1,"b":2}')
    with pytest.raises(RowError, match="a name could come twice"):
        allows(grammars, schema | {"minProperties": 3}, "")


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ({"additonalProperties": False}, "additionalProperties"),
        ({"items": {"anyof": [INTEGER]}}, "anyOf"),
        ({"properties": {"n": {"min_length": 3}}}, "minLength"),
        ({"$defs": {"n": {"requierd": ["a"]}}}, "required"),
        ({"oneOf": [{"type:": "string"}]}, "type"),
        ({"ref": "#/$defs/a"}, "$ref"),
    ],
    ids=str,
)
def test_a_slip_that_would_loosen_a_schema_is_refused_and_what_is_meant_is_named(
    grammars: GrammarCompiler, slip: dict[str, Any], meant: str
) -> None:
    with pytest.raises(
        RowError, match=f"is no keyword.*is {meant.replace('$', '.')} meant"
    ) as caught:
        allows(grammars, slip, "1")
    assert caught.value.code == ErrorCode.INVALID_SCHEMA


def test_names_notes_and_what_is_put_out_of_use_are_no_slips(grammars: GrammarCompiler) -> None:
    schema = {
        "properties": {"item": INTEGER, "requierd": INTEGER},
        "_format": "date",
        "note": "not",
        "types": {"anyof": {"patern": "a"}},
        "default": {"maxlength": 3},
        "const": {"item": 1, "requierd": 2},
    }
    assert allows(grammars, schema, '{"item":1,"requierd":2}')
    assert meant_keyword("devDependencies", {}) is None
    assert meant_keyword("require", "a") is None


def test_a_schema_that_asks_for_what_is_no_json_is_refused(grammars: GrammarCompiler) -> None:
    schema = {"type": "array", "items": INTEGER, "x-guidance": {"item_separator": ";"}}
    with pytest.raises(RowError, match="x-guidance"):
        allows(grammars, schema, "[1;2]")
