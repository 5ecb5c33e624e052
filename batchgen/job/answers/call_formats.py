"""The formats of tool calls by name: vLLM's and SGLang's parser names, and which template has
which.

In the order in which a template is asked: what names itself clearly comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchgen.job.answers.addressed_calls import AddressedCalls
from batchgen.job.answers.calls import Call, CallFormat, Calls, Tools, object_text
from batchgen.job.answers.channels import HARMONY, messages_of
from batchgen.job.answers.gemma_calls import GemmaCalls
from batchgen.job.answers.json_calls import (
    BareJsonCalls,
    MistralCalls,
    NamedJsonCalls,
    TaggedJsonCalls,
)
from batchgen.job.answers.marks import RAW, Marks
from batchgen.job.answers.named_format import named_format
from batchgen.job.answers.nested_calls import NestedCalls
from batchgen.job.answers.pythonic_calls import PythonicCalls
from batchgen.job.answers.tagged_calls import (
    CODER,
    DSML,
    GLM,
    HUNYUAN,
    HUNYUAN_PREVIEW,
    KIMI_K3,
    LONGCAT,
    MINICPM,
    MINIMAX,
    MUSE,
    SEED,
)

__all__ = ["call_format"]

_BAR = "\N{FULLWIDTH VERTICAL LINE}"


@dataclass(frozen=True, slots=True)
class _HarmonyCalls:
    """Messages to `functions.NAME`, whatever their channel."""

    name: str = "harmony"
    tags: tuple[str, ...] = HARMONY.tags

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return HARMONY.is_of(template)

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`."""
        calls: list[Call] = []
        said: list[str] = []
        for message in messages_of(answer, marks):
            if message.recipient is None:
                said.append(message.text)
                continue
            arguments = object_text(marks.plain(message.text, RAW))
            if arguments is None:
                return None
            calls.append(Call(message.recipient.removeprefix("functions."), arguments))
        return Calls("".join(said), tuple(calls)) if calls else None


_DEEPSEEK = NamedJsonCalls(
    "deepseek_v3",
    (f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁calls▁end{_BAR}>"),
    f"<{_BAR}tool▁call▁begin{_BAR}>",
    f"<{_BAR}tool▁sep{_BAR}>",
    f"<{_BAR}tool▁call▁end{_BAR}>",
    (f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁call▁begin{_BAR}>"),
)
_KIMI = NamedJsonCalls(
    "kimi_k2",
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    ("<|tool_call_argument_begin|>",),
)
_SOLAR = NamedJsonCalls(
    "solar_open",
    ("<|begin|>assistant<|tool_calls|>", "<|tool_calls|>", "<|calls|>"),
    "<|tool_call:begin|>",
    "<|tool_call:args|>",
    "<|tool_call:end|>",
    ("<|tool_call:args|>",),
    after_id="<|tool_call:name|>",
)
_HUNYUAN_DENSE = NamedJsonCalls(
    "hunyuan_dense",
    ("<tool_calls>", "</tool_calls>"),
    "<tool_call>",
    "\n",
    "</tool_call>",
    ("<tool_calls><tool_call>",),
)
_FUNCTIONARY = NamedJsonCalls(
    "functionary_v3", (), "<function=", ">", "</function>", ("<{start_tag}={function_name}>",)
)
_FORMATS: tuple[CallFormat, ...] = (
    _HarmonyCalls(),
    GemmaCalls(),
    NestedCalls("minimax_m3", "]<]minimax[>["),
    AddressedCalls("functionary_v3_2", ">>>"),
    DSML,
    HUNYUAN_PREVIEW,
    _DEEPSEEK,
    _KIMI,
    MistralCalls(),
    KIMI_K3,
    HUNYUAN,
    _SOLAR,
    MUSE,
    MINICPM,
    _FUNCTIONARY,
    SEED,
    MINIMAX,
    GLM,
    LONGCAT,
    CODER,
    TaggedJsonCalls("apertus", ("<|tools_prefix|>",), ("<|tools_suffix|>",), keyed=True),
    TaggedJsonCalls(
        "gigachat3",
        ("<|function_call|>", "<|message_sep|>\n\nfunction call<|role_sep|>\n"),
        clues=("<|function_call|>", "'role': 'function call'"),
    ),
    TaggedJsonCalls("longcat", ("<longcat_tool_call>",), ("</longcat_tool_call>",)),
    TaggedJsonCalls("cohere_command3", ("<|START_ACTION|>",), ("<|END_ACTION|>",)),
    TaggedJsonCalls("nemotron", ("<TOOLCALL>",), ("</TOOLCALL>",)),
    TaggedJsonCalls("internlm", ("<|action_start|><|plugin|>",), ("<|action_end|>",)),
    _HUNYUAN_DENSE,
    TaggedJsonCalls(
        "step3_vl",
        ("<tool_call>",),
        ("</tool_call>",),
        ("<tool_calls>\\n<tool_call>",),
        outer=("<tool_calls>", "</tool_calls>"),
    ),
    TaggedJsonCalls("hunyuan_a13b", ("<tool_calls>",), ("</tool_calls>",)),
    PythonicCalls(
        "lfm2",
        ("<|tool_call_start|>",),
        ("<|tool_call_end|>",),
        # Most of its templates write no calls: a call is content there, as the model gave it.
        ("<|tool_call_start|>", "<|tool_list_start|>", "List of tools: ["),
    ),
    PythonicCalls("olmo3", ("<function_calls>",), ("</function_calls>",), ("<function_calls>",)),
    TaggedJsonCalls("hermes", ("<tool_call>",), ("</tool_call>",)),
    TaggedJsonCalls(
        "phi4_mini_json",
        ("functools", "<|tool_call|>"),
        ("<|/tool_call|>",),
        ("<|/tool_call|>", "functools", "<|/tool|>"),
    ),
    TaggedJsonCalls(
        "granite", ("<|tool_call|>", "<tool_call>"), ("</tool_call>",), ("<|tool_call|>",)
    ),
    BareJsonCalls(
        "llama3_json",
        ("<|python_tag|>", "<|python_start|>", "<|python_end|>"),
        ("<|python_tag|>", '{"name": function name, "parameters"', "Environment: ipython"),
        ("<|python_start|>", "<|python_end|>"),
    ),
    PythonicCalls(
        "pythonic",
        ("<|python_start|>",),
        ("<|python_end|>",),
        ("[func_name1(params_name1=params_value1",),
    ),
)
_NAMED = {form.name: form for form in _FORMATS}
_ALIASES = {
    "openai": "harmony", "gpt_oss": "harmony", "openai_gptoss": "harmony",
    "deepseek_v31": "deepseek_v3", "deepseek_v4": "deepseek_v32", "deepseekv3": "deepseek_v3",
    "deepseekv31": "deepseek_v3", "deepseekv32": "deepseek_v32",
    "qwen25": "hermes", "qwen": "hermes", "qwen3": "hermes", "ernie45": "hermes",
    "granite4": "hermes", "smollm3": "hermes",
    "qwen3_xml": "qwen3_coder", "mimo": "qwen3_coder", "nemotron_v3": "qwen3_coder",
    "step3p5": "qwen3_coder", "glm47": "glm45", "glm": "glm45",
    "llama3": "llama3_json", "llama4_json": "llama3_json", "llama4_pythonic": "pythonic",
    "phi4_mini": "phi4_mini_json", "jamba": "hunyuan_a13b", "internlm2": "internlm",
    "cohere_command4": "cohere_command3", "minimax": "hunyuan_a13b", "minimax_m1": "hunyuan_a13b",
    "hy3": "hy_v3", "hunyuan_v3": "hy_v3", "laguna": "glm45", "poolside_v1": "glm45",
    "firefunction": "phi4_mini_json",
}  # fmt: skip


def call_format(name: str, template: str | None) -> CallFormat | None:
    """The format that `--tool-call-parser` names; of `auto` the template's, of `none` none.
    UsageError for a name that is none."""
    return named_format("--tool-call-parser", name, template, _FORMATS, _NAMED, _ALIASES)
