"""What a chat template writes of calls and thinking is read as it was (`jobs/check_calls.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from check_calls import TURNS, check

_CHAT = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}CALLS<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_OBJECTS = """{% for call in m.tool_calls or [] %}{% set f = call.function %}
<tool_call>
{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}
</tool_call>{% endfor %}"""
_TAGS = """{% for call in m.tool_calls or [] %}{% set f = call.function %}
<tool_call>
<function={{ f.name }}>
{% for key, value in f.arguments.items() %}<parameter={{ key }}>
{{ value if value is string else value | tojson }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}"""
_PYTHON = """{% if m.tool_calls %}<|tool_call_start|>[{% for call in m.tool_calls %}
{%- set f = call.function %}{{ ', ' if not loop.first }}{{ f.name }}(
{%- for key, value in f.arguments.items() %}{{ ', ' if not loop.first }}{{ key }}=
{%- if value is string %}"{{ value | replace('"', '\\\\"') }}"{% else %}{{ value }}{% endif %}
{%- endfor %}){% endfor %}]<|tool_call_end|>{% endif %}"""
_NESTED = """{% macro tag(value) %}{% if value is mapping %}{% for k, v in value.items() %}{{ M }}
<{{ k }}>{{ tag(v) }}{{ M }}</{{ k }}>{% endfor %}{% elif value is string %}{{ value }}
{%- elif value is sequence %}{% for v in value %}{{ M }}<item>{{ tag(v) }}{{ M }}</item>{% endfor %}
{%- else %}{{ value | tojson }}{% endif %}{% endmacro %}
{%- if m.tool_calls %}{{ M }}<tool_call>
{% for call in m.tool_calls %}{{ M }}<invoke name="{{ call.function.name }}">
{%- for k, v in call.function.arguments.items() %}{{ M }}<{{ k }}>{{ tag(v) }}{{ M }}</{{ k }}>
{%- endfor %}{{ M }}</invoke>
{% endfor %}{{ M }}</tool_call>{% endif %}""".replace("{{ M }}\n", "{{ M }}").replace(
    "{{ M }}", "]<]minimax[>["
)
_WAYS = {"objects": _OBJECTS, "tags": _TAGS, "python": _PYTHON, "nested": _NESTED}
_ADDRESSED = """{% for m in messages %}<|start|>{{ m.role }}
{% if m.role != 'assistant' %}{{ m.content }}{% else %}{% if m.content %}>>>all
{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}>>>{{ call.function.name }}
{{ call.function.arguments | tojson }}{% endfor %}{% endif %}<|end|>
{% endfor %}{% if add_generation_prompt %}<|start|>assistant
>>>{% endif %}"""


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("way", _WAYS)
def test_what_a_template_writes_is_read_as_it_was(way: str, turn: str) -> None:
    assert check(_CHAT.replace("CALLS", _WAYS[way]), turn) == "equal"


@pytest.mark.parametrize(
    "turn", [turn for turn in TURNS if not turn.startswith(("thought", "all"))]
)
def test_answers_in_parts_that_name_who_they_are_for_are_read_as_they_were(turn: str) -> None:
    assert check(_ADDRESSED, turn) == "equal"


def test_calls_that_are_read_otherwise_are_found() -> None:
    swapped = _OBJECTS.replace("f.arguments | tojson", '{"city": "Paris", "days": 4} | tojson')
    assert check(_CHAT.replace("CALLS", swapped), "one call").startswith("WRONG calls")
    assert check(_CHAT.replace("CALLS", ""), "one call") == "calls not written"
    unknown = "{% if m.tool_calls %}get_weather Paris{% endif %}"
    assert check(_CHAT.replace("CALLS", unknown), "one call") == "no parser"
