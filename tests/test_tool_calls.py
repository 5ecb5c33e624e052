"""Calls of tools stand in their own column, as OpenAI has them; what is no whole call is text."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from answer_tokenizers import tag_codec
from builtin_oracle import answers
from click.testing import CliRunner
from echo_runs import write_rows
from test_schemas_held import follows

from batchgen.cli.main import cli
from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import Completion, FinishReason, SamplingParams, Timings
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.answers.call_formats import call_format
from batchgen.job.answers.calls import CallFormat, Tools, read_calls
from batchgen.job.answers.marks import Marks, Wish
from batchgen.job.answers.reading import AnswerParsers
from batchgen.job.answers.tool_choice import forced_output, read_tool_choice
from batchgen.job.flow.outbox import FinishedRow
from batchgen.job.flow.results import Results, ResultsOptions
from batchgen.job.rows import InputRow, OutputRow
from batchgen.job.text.backend_codec import BackendCodec
from batchgen.job.text.requests import Requests

BAR = "\N{FULLWIDTH VERTICAL LINE}"
MARK = "]<]minimax[>["
USER = [{"role": "user", "content": "Weather in Paris?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "units": {"type": "array", "items": {"type": "string"}},
        "brief": {"type": "boolean"},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time", "parameters": {}}},
]
PARIS = {"city": "Paris", "days": 3}
ONE = [("get_weather", PARIS)]
TWO = [*ONE, ("get_time", {})]


def read(name: str, answer: str, tokens: bool, tools: Any = TOOLS) -> tuple[str, Any] | None:
    """(what is said beside the calls, the calls) of an answer; None: all of it is text."""
    form, codec, marks = form_of(name, tokens)
    marked = marks.marked(codec.encode_plain([answer])[0], Wish())
    found = read_calls(form, marked, marks, Tools.of(tools))
    if found is None:
        return None
    return marks.plain(found.content, Wish()), [
        (call.name, json.loads(call.arguments)) for call in found.calls
    ]


@functools.cache
def form_of(name: str, tokens: bool) -> tuple[CallFormat, BackendCodec, Marks]:
    form = call_format(name, None)
    assert form is not None
    tags = [t for t in form.tags if t.startswith(("<", "[", BAR)) and "><" not in t]
    codec = tag_codec(special=tags if tokens else [])
    return form, codec, Marks(codec, form.tags)


def deepseek(*calls: str) -> str:
    inner = "\n".join(f"<{BAR}tool▁call▁begin{BAR}>{c}<{BAR}tool▁call▁end{BAR}>" for c in calls)
    return f"<{BAR}tool▁calls▁begin{BAR}>{inner}<{BAR}tool▁calls▁end{BAR}>"


P = '{"city": "Paris", "days": 3}'
WHOLE: list[tuple[str, str, str, Any]] = [
    ("hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {P}}}\n</tool_call>', "", ONE),
    ("hermes", f'Let me look.\n<tool_call>{{"name": "get_weather", "arguments": {P}}}</tool_call>\n'
     '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>', "Let me look.", TWO),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": '
     f'{json.dumps(P)}}}</tool_call>', "", ONE),
    ("hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {P}}}', "", ONE),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a</tool_call>b"}}'
     "</tool_call>", "", [("get_weather", {"city": "a</tool_call>b"})]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb"}}</tool_call>', "",
     [("get_weather", {"city": "a\nb"})]),
    ("qwen3_coder", "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n"
     "</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>", "I look.", ONE),
    ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\n3\n</parameter>\n"
     '<parameter=units>\n["a", "b"]\n</parameter>\n<parameter=brief>\nTrue\n</parameter>\n'
     "</function>\n</tool_call>", "",
     [("get_weather", {"city": "3", "units": ["a", "b"], "brief": True})]),
    ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nline 1\n  line 2\n"
     "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n"
     "</tool_call>", "", [("get_weather", {"city": "line 1\n  line 2"}), ("get_time", {})]),
    ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n<parameter=days>"
     "\n3\n</parameter>\n</function>\n</tool_call>", "", ONE),
    ("qwen3_coder", "<tool_call><function=get_weather><parameter=city>Paris</parameter>"
     f"<parameter=units>{'[' * 5_000}</parameter></function></tool_call>", "",
     [("get_weather", {"city": "Paris", "units": "[" * 5_000})]),
    ("seed_oss", "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n"
     "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>", "", ONE),
    ("glm45", "Sure.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>"
     "\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>", "Sure.", ONE),
    ("glm47", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value><arg_key>"
     "days</arg_key><arg_value>3</arg_value></tool_call><tool_call>get_time</tool_call>", "", TWO),
    ("minimax_m2", '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris'
     '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>', "",
     ONE),
    ("deepseek_v32", f'Hm.\n\n<{BAR}DSML{BAR}function_calls>\n<{BAR}DSML{BAR}invoke name="'
     f'get_weather">\n<{BAR}DSML{BAR}parameter name="city" string="true">Paris</{BAR}DSML{BAR}'
     f'parameter>\n<{BAR}DSML{BAR}parameter name="days" string="false">3</{BAR}DSML{BAR}parameter>'
     f"\n</{BAR}DSML{BAR}invoke>\n</{BAR}DSML{BAR}function_calls>", "Hm.", ONE),
    ("gemma4", 'Hm. <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>'
     "<|tool_call>call:get_time{}<tool_call|>", "Hm.", TWO),
    ("gemma4", '<|tool_call>call:get_weather{brief:true,city:<|"|>a "b", c: {d}<|"|>,units:[<|"|>x'
     '<|"|>]}<tool_call|>', "",
     [("get_weather", {"brief": True, "city": 'a "b", c: {d}', "units": ["x"]})]),
    ("llama3_json", f'{{"name": "get_weather", "parameters": {P}}}', "", ONE),
    ("llama3_json", f'<|python_tag|>{{"name": "get_weather", "parameters": {P}}}; '
     '{"name": "get_time", "parameters": {}}', "", TWO),
    ("mistral", f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {P}}}]', "", ONE),
    ("mistral", f'[TOOL_CALLS]get_weather[ARGS]{P}[TOOL_CALLS]get_time[CALL_ID]123456789[ARGS]{{}}',
     "", TWO),
    ("mistral", f"Well. [TOOL_CALLS]get_weather{P}", "Well.", ONE),
    ("harmony", "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
     f"{P}<|call|>", "", ONE),
    ("harmony", "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant to=functions."
     f"get_weather<|channel|>commentary json<|message|>{P}", "Let me see.", ONE),
    ("harmony", f" to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{P}"
     "<|call|>", "", ONE),
    ("harmony", f"<|channel|>commentary to=functions.get_weather code<|message|>{P}<|call|>"
     "<|start|>assistant<|channel|>commentary to=functions.get_time<|message|>{}<|call|>", "", TWO),
    ("harmony", f"<|channel|>analysis to=functions.get_weather<|message|>{P}<|call|>", "", ONE),
    ("deepseek_v3", deepseek(f"function<{BAR}tool▁sep{BAR}>get_weather\n```json\n{P}\n```",
     f"function<{BAR}tool▁sep{BAR}>get_time\n```json\n{{}}\n```"), "", TWO),
    ("deepseek_v31", "Right. " + deepseek(f"get_weather<{BAR}tool▁sep{BAR}>{P}"), "Right.", ONE),
    ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
     f"<|tool_call_argument_begin|>{P}<|tool_call_end|><|tool_calls_section_end|>", "", ONE),
    ("pythonic", "[get_weather(city='Paris', days=3), get_time()]", "", TWO),
    ("lfm2", '<|tool_call_start|>[get_weather(city="Paris", days=3)]<|tool_call_end|>Looking.',
     "Looking.", ONE),
    ("lfm2", f'<|tool_call_start|>[{{"name": "get_weather", "arguments": {P}}}]<|tool_call_end|>',
     "", ONE),
    ("pythonic", "<|python_start|>[get_weather(city='Paris', days=3)]<|python_end|>", "", ONE),
    ("olmo3", "<function_calls>\nget_weather(city=\"Paris\", days=3)\nget_time()\n"
     "</function_calls>", "", TWO),
    ("pythonic", "[get_weather(city='Paris', brief=true, units=['a'])]", "",
     [("get_weather", {"city": "Paris", "brief": True, "units": ["a"]})]),
    ("granite", f'<|tool_call|>[{{"name": "get_weather", "arguments": {P}}}]', "", ONE),
    ("phi4_mini_json", f'functools[{{"name": "get_weather", "arguments": {P}}}]', "", ONE),
    ("phi4_mini_json", f'<|tool_call|>[{{"name": "get_weather", "arguments": {P}}}]<|/tool_call|>',
     "", ONE),
    ("nemotron", f'<TOOLCALL>[{{"name": "get_weather", "arguments": {P}}}]</TOOLCALL>', "", ONE),
    ("jamba", f'<tool_calls>[{{"name": "get_weather", "arguments": {P}}}]</tool_calls>', "", ONE),
    ("cohere_command3", '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
     f'"parameters": {P}}}\n]<|END_ACTION|>', "", ONE),
    ("muse_glimmer", '<atem:function_calls>\n<atem:invoke name="get_weather">\n<atem:parameter '
     'name="city">Paris</atem:parameter>\n<atem:parameter name="days">3</atem:parameter>\n'
     "</atem:invoke>\n</atem:function_calls>", "", ONE),
    ("muse_glimmer", ' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name='
     '"get_time">' "\n</atem:invoke>\n</atem:function_calls>", "", [("get_time", {})]),
    ("minicpm5", 'Well. <function name="get_weather"><param name="city">Paris</param><param name='
     '"days">3</param></function>\n<function name="get_time"></function>', "Well.", TWO),
    ("minicpm5", '<function name="get_weather"><param name="city"><![CDATA[a<b>\nc</param>d]]>'
     "</param></function>", "", [("get_weather", {"city": "a<b>\nc</param>d"})]),
    ("minicpm5", """<function name="get_weather"><param name="units">['a', "b'c"]</param>"""
     "</function>", "", [("get_weather", {"units": ["a", "b'c"]})]),
    ("hy_v3", "Hm.<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>"
     "\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris"
     "</arg_value:opensource>\n<arg_key:opensource>days</arg_key:opensource>\n"
     "<arg_value:opensource>3</arg_value:opensource>\n</tool_call:opensource>"
     "\n</tool_calls:opensource>", "Hm.", ONE),
    ("lfm2", '<|tool_call_start|>\n```python\nget_weather(city="Paris",days=3)\nget_time()\n```\n'
     "<|tool_call_end|>\nHm.", "Hm.", TWO),
    ("hy_v3_preview", "Hm.<tool_calls>\n<tool_call>get_weather<tool_sep>\n<arg_key>city</arg_key>"
     "\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
     "</tool_call>\n</tool_calls>", "Hm.", ONE),
    ("longcat2", "Hm.<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n"
     "<longcat_arg_value>Paris</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n"
     "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call>\n<longcat_tool_call>get_time\n"
     "</longcat_tool_call>\n", "Hm.", TWO),
    ("hunyuan_dense", f"Hm.<tool_calls><tool_call>get_weather\n```json\n{P}\n```</tool_call>\n"
     "<tool_call>get_time\n```json\n{}\n```</tool_call></tool_calls>", "Hm.", TWO),
    ("step3_vl", f'Hm.\n<tool_calls>\n<tool_call>\n{{"name": "get_weather", "arguments": {P}}}\n'
     '</tool_call>\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n'
     "</tool_calls>", "Hm.", TWO),
    ("kimi_k3", "<|open|>response<|sep|>Hm.<|close|>response<|sep|><|open|>tools<|sep|><|open|>"
     'call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>Paris'
     '<|close|>argument<|sep|><|open|>argument key="days" type="number"<|sep|>3<|close|>argument'
     '<|sep|><|close|>call<|sep|><|open|>call tool="get_time" index="2"<|sep|><|close|>call<|sep|>'
     "<|close|>tools<|sep|><|close|>message<|sep|>", "Hm.", TWO),
    ("solar_open", "<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>get_weather"
     f"<|tool_call:args|>{P}<|tool_call:end|><|tool_call:begin|>a2<|tool_call:name|>get_time"
     "<|tool_call:args|>{}<|tool_call:end|><|calls|>", "", TWO),
    ("apertus", f'Hm.<|tools_prefix|>[{{"get_weather": {P}}}, {{"get_time": {{}}}}]'
     "<|tools_suffix|>", "Hm.", TWO),
    ("gigachat3", f'Hm.<|function_call|>{{"name": "get_weather", "arguments": {P}}}', "Hm.", ONE),
    ("gigachat3", '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", '
     f'"arguments": {P}}}', "", ONE),
    ("functionary_v3", f"Hm.<function=get_weather>{P}</function><function=get_time>{{}}</function>",
     "Hm.", TWO),
    ("minimax_m1", f'<tool_calls>\n{{"name": "get_weather", "arguments": {P}}}\n'
     '{"name": "get_time", "arguments": {}}\n</tool_calls>', "", TWO),
    ("llama4_json", '<|python_start|>Hm.<|python_end|>{"name": "get_weather", "parameters": '
     f'{P}}}{{"name": "get_time", "parameters": {{}}}}', "Hm.", TWO),
    ("lfm2", "<|tool_call_start|>[get_weather(city='a \"b\"\n\\ c')]<|tool_call_end|>", "",
     [("get_weather", {"city": 'a "b"\n\\ c'})]),
    ("lfm2", "<|tool_call_start|>[get_weather(city='C:\\\\Paris \\\\ \\d \\'x\\' \\n')]"
     "<|tool_call_end|>", "", [("get_weather", {"city": "C:\\Paris \\ \\d 'x' \n"})]),
    ("seed_oss", "<seed:tool_call>\n<function=get_weather>\n<parameter=units>['a', \"b'c\"]"
     "</parameter>\n</function>\n</seed:tool_call>", "",
     [("get_weather", {"units": ["a", "b'c"]})]),
    ("internlm", f'<|action_start|><|plugin|>\n{{"name": "get_weather", "parameters": {P}}}'
     "<|action_end|>", "", ONE),
]  # fmt: skip


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case[0])
def test_calls_are_read_as_their_models_write_them(
    case: tuple[str, str, str, Any], tokens: bool
) -> None:
    name, answer, said, calls = case
    if tokens and "a</tool_call>b" in answer:
        pytest.skip("within a string a model writes it in pieces")
    assert read(name, answer, tokens) == (said, calls)


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
def test_an_answer_that_ends_anywhere_can_be_read(tokens: bool) -> None:
    for name, answer, _, _ in WHOLE:
        for length in range(0, len(answer), 3):
            read(name, answer[:length], tokens)


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case[0])
def test_a_call_that_was_cut_is_text(case: tuple[str, str, str, Any]) -> None:
    name, answer, _, calls = case
    end = answer.rfind("city") + 7
    for cut in (answer[:end], answer[: end - 4]):
        found = read(name, cut, True)
        assert found is None or found[1] != calls


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("hermes", "It rains."),
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": }</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'),
        ("hermes", f'<tool_call>{{"name": "get_weather", "arguments": {P}}}</tool_call>'
         "<tool_call>oops</tool_call>"),
        ("hermes", "<tool_call>" + "[" * 100_000),
        ("llama3_json", '{"name": "Paris", "parameters": {"river": "Seine"}}'),
        ("llama3_json", '{"city": "Paris"}'),
        ("llama3_json", f'{{"name": "get_weather", "parameters": {P}}} Well.'),
        ("mistral", "[TOOL_CALLS]get_weather[ARGS]{'city': 'Paris'}"),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[see(note=1)]"),
        ("pythonic", "[get_weather(city=open('x'))]"),
        ("pythonic", "[get_weather('Paris')]"),
        ("pythonic", "(" * 50_000),
        ("phi4_mini_json", "Use functools.lru_cache."),
        ("qwen3_coder", "<tool_call>\n<function=get_weather>\nParis\n</function>\n</tool_call>"),
        ("minimax_m3", f'{MARK}<tool_call>{MARK}<invoke name="f">' + f"{MARK}<item>" * 2_000
         + f"{MARK}</item>" * 2_000 + f"{MARK}</invoke>{MARK}</tool_call>"),
        ("harmony", "<|channel|>commentary to=functions.f<|message|>{'a'"),
        ("deepseek_v3", deepseek("nonsense")),
    ],
)  # fmt: skip
def test_what_is_no_call_is_text(name: str, answer: str) -> None:
    assert read(name, answer, True) is None
    assert read(name, answer, False) is None


TEMPLATES = {
    "hermes": "<tool_call></tool_call>", "qwen3_coder": "<tool_call><function=<parameter=",
    "glm45": "<tool_call><arg_key>", "llama3_json": "<|python_tag|>", "mistral": "[TOOL_CALLS]",
    "harmony": "<|channel|>", "deepseek_v3": f"<{BAR}tool▁calls▁begin{BAR}>",
    "kimi_k2": "<|tool_call_begin|><|tool_call_argument_begin|>", "granite": "<|tool_call|>",
    "phi4_mini_json": "<|tool|><|/tool|>", "lfm2": "<|tool_call_start|>",
    "deepseek_v32": f"<{BAR}DSML{BAR}invoke", "minimax_m2": "<minimax:tool_call>",
    "gemma4": "<|tool_call>call:<tool_call|>",
    "seed_oss": "<seed:tool_call><function=<parameter=", "hunyuan_a13b": "<tool_calls>",
    "kimi_k3": "<|open|><|sep|>", "hy_v3": "<tool_call{}><tool_sep{}><arg_key{}>",
    "solar_open": "<|tool_call:begin|><|tool_call:args|>", "apertus": "<|tools_prefix|>",
    "muse_glimmer": "<atem:invoke ", "minicpm5": "<tool_sep><function name=<param name=",
    "gigachat3": "<|function_call|>", "hy_v3_preview": "<tool_call><tool_sep><arg_key>",
    "longcat2": "<longcat_tool_call><longcat_arg_key>", "longcat": "<longcat_tool_call>",
    "hunyuan_dense": "<tool_calls><tool_call>", "step3_vl": "<tool_calls>\\n<tool_call>",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_format_is_the_templates(name: str) -> None:
    form = call_format("auto", f"{{{{ '{TEMPLATES[name]}' }}}}")
    assert form is not None
    assert form.name == name
    assert call_format("none", TEMPLATES[name]) is None


@pytest.mark.parametrize("listed", ["<|tool_list_start|>[", "List of tools: ["])
def test_calls_are_read_where_the_template_lists_tools_as_lfm2_and_writes_no_calls(
    listed: str,
) -> None:
    template = f"{{{{ messages[0].content }}}}{{{{ '{listed}' }}}}{{{{ tools | tojson }}}}"
    said = "<|tool_call_start|>[get_weather(city='Paris', days=3)]<|tool_call_end|>Looking."
    out = row_of(said, template)
    assert out.completion == "Looking."
    (call,) = json.loads(out.tool_calls or "[]")
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == PARIS


def test_a_name_that_is_none_is_refused() -> None:
    assert call_format("auto", "{{ messages }}") is None
    with pytest.raises(UsageError, match="no such parser"):
        call_format("hermess", None)


def row_of(output: str, template: str, parser: str = "auto", **row: Any) -> OutputRow:
    codec = tag_codec(
        other=["<tool_call>", "</tool_call>", "<think>", "</think>"], template=template
    )
    requests = Requests(codec, parsers=AnswerParsers(codec, template, "auto", parser))
    requests._process = None
    given = {"messages": USER, "template_kwargs": {"tools": TOOLS}} | row
    ready, failed = requests.prepare([InputRow(4, "f:1", **given)])
    assert not failed, failed[0].error
    ids = codec.encode_plain([output])[0]
    times = Timings(1.0, 1.0, 1.0, 1.0)
    done = Completion(4 << 10, ids, FinishReason.STOP, timings=times)
    results = Results(lambda: codec, lambda i: 1, ResultsOptions("run"))
    (out,) = results.output_rows([FinishedRow(ready[0], [done])])
    return out


CALL = f'<tool_call>{{"name": "get_weather", "arguments": {P}}}</tool_call>'
HERMES = "{{ messages[0].content }}{# <think> <tool_call> #}"


def test_rows_with_tools_are_read_and_others_are_not() -> None:
    out = row_of(f"<think>{CALL}</think>I see.{CALL}", HERMES)
    assert (out.reasoning, out.completion) == (CALL, "I see.")
    assert out.tool_calls is not None
    (call,) = json.loads(out.tool_calls)
    assert (call["type"], len(call["id"])) == ("function", 9)
    assert json.loads(call["function"]["arguments"]) == PARIS
    assert row_of(f"<think>{CALL}</think>I see.{CALL}", HERMES).tool_calls == out.tool_calls
    plain = row_of(CALL, HERMES, template_kwargs={})
    assert (plain.completion, plain.tool_calls) == (CALL, None)
    named = row_of(CALL, HERMES, "hermes", messages=None, prompt="Hi", template_kwargs={})
    assert (named.completion, named.tool_calls is None) == ("", False)
    off = row_of(CALL, HERMES, "none")
    assert (off.completion, off.tool_calls) == (CALL, None)


@pytest.mark.parametrize(("parser", "told"), [("auto", 1), ("none", 0), ("hermes", 0)])
def test_calls_in_a_form_that_is_not_known_are_told_of(
    parser: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    row_of("It rains.", "{{ messages[0].content }}", parser)
    assert len([text for text in caplog.messages if "writes calls of tools" in text]) == told
    caplog.clear()
    row_of("It rains.", HERMES, parser)
    row_of("It rains.", "{{ messages[0].content }}", template_kwargs={})
    assert not [text for text in caplog.messages if "writes calls of tools" in text]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None), ("auto", None), ("none", None), ("required", ""), ("any", ""),
        ({"type": "function", "function": {"name": "get_time"}}, "get_time"),
        ({"type": "function", "name": "get_time"}, "get_time"),
    ],
)  # fmt: skip
def test_a_choice_of_tools_is_read(choice: Any, expected: str | None) -> None:
    assert read_tool_choice({"tools": TOOLS, "tool_choice": choice}) == expected


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"tool_choice": "required"}, ErrorCode.INVALID_PARAM),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "f"}},
         ErrorCode.INVALID_PARAM),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, ErrorCode.UNSUPPORTED_SETTING),
        ({"tools": TOOLS, "tool_choice": 3}, ErrorCode.UNSUPPORTED_SETTING),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_kept_is_refused(given: dict[str, Any], code: ErrorCode) -> None:
    with pytest.raises(RowError) as refused:
        read_tool_choice(given)
    assert refused.value.code is code


@pytest.mark.parametrize("function", ["", "get_weather"])
def test_a_forced_call_is_held_to_the_tools_schemas(function: str) -> None:
    pytest.importorskip("llguidance")
    params = SamplingParams(structured_outputs=forced_output(function, Tools.of(TOOLS)))
    answer = P if function else f'[{{"name": "get_weather", "parameters": {P}}}]'
    out = row_of(answer, HERMES, params=params, forced_tool=function)
    assert out.tool_calls is not None
    assert [c["function"]["name"] for c in json.loads(out.tool_calls)] == ["get_weather"]
    assert json.loads(json.loads(out.tool_calls)[0]["function"]["arguments"]) == PARIS
    cut = row_of(answer[:-3], HERMES, params=params, forced_tool=function)
    assert (cut.completion, cut.tool_calls) == (answer[:-3], None)


def test_a_tool_s_references_are_to_its_own_schema() -> None:
    grammars = GrammarCompiler(lambda: "byte", 262, (261,))
    number = {"type": "integer"}
    node = {"properties": {"v": number, "next": {"$ref": "#"}}, "additionalProperties": False}
    kept = {"properties": {"a": {"const": {"$ref": "#/x"}}, "b": {"$ref": "#/properties/a"}}}
    schemas = {
        "node": node,
        "one": {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": number}},
        "two": {
            "$id": "urn:two",
            "properties": {"a": {"$ref": "#/definitions/x"}},
            "definitions": {"x": {"type": "null"}},
        },
        "kept": kept,
    }
    tools = [
        {"function": {"name": name, "parameters": {"type": "object"} | schema}}
        for name, schema in schemas.items()
    ]
    wanted = forced_output("", Tools.of(tools))

    def is_call(name: str, parameters: str) -> bool:
        return follows(grammars, wanted, f'[{{"name":"{name}","parameters":{parameters}}}]')

    assert is_call("node", '{"v":1,"next":{"v":2,"next":{}}}')
    assert not is_call("node", '{"next":[]}')
    assert is_call("one", '{"a":1}')
    assert not is_call("one", '{"a":null}')
    assert is_call("two", '{"a":null}')
    assert not is_call("two", '{"a":1}')
    assert is_call("kept", '{"a":{"$ref":"#/x"},"b":{"$ref":"#/x"}}')


FORECAST = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Genève", 'the "old" town']},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "hourly": {"$ref": "#/$defs/flag"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}


def test_a_real_model_makes_the_calls_that_a_choice_of_tools_asks_for(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("llguidance")
    schemas = {"forecast": FORECAST, "ping": {}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in schemas.items()
    ]
    named = {"type": "function", "function": {"name": "forecast"}}
    rows = [
        {"messages": USER, "tools": tools, "tool_choice": choice, "seed": seed, "temperature": 1.0}
        for choice in ("required", named)
        for seed in range(6)
    ]
    found = answers(tmp_path, [*rows, {"messages": USER, "max_tokens": 4}], max_num_seqs=16)
    assert found[-1]["tool_calls"] is None
    ended = [row for row in found[:-1] if row["finish_reason"] == "stop"]
    assert any(row["index"] >= 6 for row in ended)
    assert [row["status"] for row in found] == ["ok"] * len(found)
    for row in ended:
        assert (row["status"], row["completion"]) == ("ok", "")
        calls = [call["function"] for call in json.loads(row["tool_calls"])]
        assert calls
        assert row["index"] < 6 or [call["name"] for call in calls] == ["forecast"]
        for call in calls:
            jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])


def test_a_job_has_the_column_where_a_row_has_tools_and_exports_it(tmp_path: Path) -> None:
    types = pytest.importorskip("openai.types.chat")
    responses = pytest.importorskip("openai.types.responses")
    chat = {"messages": [{"role": "user", "content": f"<think>Hm.</think>{CALL}"}]}
    respond = {"input": chat["messages"][0]["content"]}
    bodies = [
        ("chat", "/v1/chat/completions", {**chat, "tools": TOOLS, "tool_choice": "auto"}),
        ("plain", "/v1/chat/completions", chat),
        (
            "response",
            "/v1/responses",
            {**respond, "tools": [{"type": "function", **TOOLS[0]["function"]}]},
        ),
        ("forced", "/v1/chat/completions", {**chat, "tool_choice": "required"}),
    ]
    rows = [
        {"custom_id": name, "method": "POST", "url": url, "body": body}
        for name, url, body in bodies
    ]
    path, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    command = ["run", "-i", path, "-o", out, "--engine", "echo", "--chat-template", HERMES]
    ran = CliRunner().invoke(cli, [*map(str, command), "--save-token-ids"])
    assert ran.exit_code == 3, ran.output
    table = pq.read_table(out)
    assert table.column_names[-3:] == ["token_ids", "tool_calls", "reasoning_tokens"]
    assert [calls is not None for calls in table["tool_calls"].to_pylist()] == [
        True,
        False,
        True,
        False,
    ]
    assert table["error_code"].to_pylist() == [None, None, None, "invalid_param"]
    exported = CliRunner().invoke(cli, ["export", str(out), "--to", str(tmp_path / "a.jsonl")])
    assert exported.exit_code == 0, exported.output
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    first = types.ChatCompletion.model_validate(lines[0]["response"]["body"], strict=True)
    assert first.choices[0].finish_reason == "tool_calls"
    assert first.choices[0].message.content is None
    assert first.choices[0].message.tool_calls[0].function.name == "get_weather"
    assert lines[0]["response"]["body"]["choices"][0]["message"]["reasoning"] == "Hm."
    third = responses.Response.model_validate(lines[2]["response"]["body"])
    assert [item.type for item in third.output] == ["reasoning", "function_call"]
    assert third.output[0].content[0].text == "Hm."
    del rows[0], rows[1]
    path = write_rows(tmp_path / "in2.jsonl", rows[:1])
    plain = ["run", "-i", path, "-o", tmp_path / "b.parquet", *command[5:]]
    assert CliRunner().invoke(cli, [*map(str, plain)]).exit_code == 0
    assert "tool_calls" not in pq.read_schema(tmp_path / "b.parquet").names
