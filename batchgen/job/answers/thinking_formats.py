"""The formats of thinking by name: vLLM's and SGLang's parser names, and which template has which.

In the order in which a template is asked: what names itself clearly comes first.
"""

from __future__ import annotations

from dataclasses import replace

from batchgen.job.answers.channels import HARMONY
from batchgen.job.answers.named_format import named_format
from batchgen.job.answers.thinking import ThinkingFormat

__all__ = ["thinking_format"]

_THINK = ThinkingFormat("think", ("<think>",), ("</think>",), ("<think>", "</think>"))
_SOLAR = "<|begin|>assistant<|content|>"
_ALWAYS = replace(_THINK, name="deepseek_r1", always=True)

_FORMATS = (
    HARMONY,
    ThinkingFormat(
        "gemma4",
        ("<|channel>thought",),
        ("<channel|>",),
        clues=("<|channel>",),
        parts=("<|channel>",),
    ),
    ThinkingFormat(
        "kimi_k3",
        ("<|open|>think<|sep|>",),
        ("<|close|>think<|sep|>",),
        ("<|open|>",),
        ("<|close|>message<|sep|>", "<|open|>response<|sep|>", "<|close|>response<|sep|>"),
        ("<|open|>", "<|close|>", "<|sep|>"),
    ),
    ThinkingFormat("hy_v3", ("<think:opensource>",), ("</think:opensource>",), ("<think{}>",)),
    ThinkingFormat(
        "solar_open",
        ("<|think|>",),
        (f"<|end|>{_SOLAR}", "<|end|>"),
        ("<|begin|>assistant<|think|>",),
        (_SOLAR, "<|content|>", "<|end|>"),
        ("<|begin|>",),
    ),
    ThinkingFormat(
        "muse_glimmer",
        ("to=self<|message|>",),
        ("<|eom|><|start|>assistant to=user<|message|>", "<|eom|><|start|>"),
        ("assistant to=self",),
        ("to=user<|message|>", "assistant to=user<|message|>", "<|eot|>"),
        ("<|message|>", "<|eom|>", "<|start|>"),
    ),
    ThinkingFormat("minicpm3", ("<|thought_start|>",), ("<|thought_end|>",)),
    ThinkingFormat("longcat2", ("<longcat_think>",), ("</longcat_think>",)),
    ThinkingFormat("solar_open2", ("<|think:start|>",), ("<|think:end|>",)),
    ThinkingFormat("minimax_m3", ("<mm:think>",), ("</mm:think>",)),
    ThinkingFormat("mistral", ("[THINK]",), ("[/THINK]",)),
    ThinkingFormat("seed_oss", ("<seed:think>",), ("</seed:think>",)),
    ThinkingFormat(
        "granite",
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
    ),
    ThinkingFormat(
        "cohere",
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        wrappers=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    ThinkingFormat("apertus", ("<|inner_prefix|>",), ("<|inner_suffix|>",)),
    ThinkingFormat(
        "apriel",
        ("Here are my reasoning steps:",),
        ("[BEGIN FINAL RESPONSE]",),
        wrappers=("[END FINAL RESPONSE]",),
    ),
    ThinkingFormat("kimi", ("◁think▷",), ("◁/think▷",)),
    ThinkingFormat("exaone_deep", ("<thought>",), ("</thought>",)),
    ThinkingFormat(
        "hunyuan_a13b", ("<think>",), ("</think>",), ("<answer>",), ("<answer>", "</answer>")
    ),
    ThinkingFormat(
        "ernie45", ("<think>",), ("</think>",), ("<response>",), ("<response>", "</response>")
    ),
    _THINK,
)
_NAMED = {form.name: form for form in _FORMATS} | {
    "deepseek_r1": _ALWAYS,
    "qwen3_thinking": _ALWAYS,
    "step3": _ALWAYS,
    "step3p5": _ALWAYS,
}
_ALIASES = {
    name: form
    for form, names in {
        "harmony": "openai_gptoss gpt_oss gptoss",
        "hy_v3": "hy3 hunyuan_v3",
        "cohere": "cohere_command3 cohere_command4",
        "hunyuan_a13b": "hunyuan",
        "mistral": "magistral",
        "think": "qwen3 deepseek_v3 deepseek_v31 deepseek_v4 glm45 glm47 holo2 kimi_k2 mimo "
        "minimax minimax_m2 minimax_m2_append_think minimax_append_think nemotron_v3 nemotron "
        "olmo3 interns1 poolside_v1 smollm3 lfm2",
    }.items()
    for name in names.split()
}


def thinking_format(name: str, template: str | None) -> ThinkingFormat | None:
    """The format that `--reasoning-parser` names; of `auto` the template's, of `none` none.
    UsageError for a name that is none."""
    return named_format("--reasoning-parser", name, template, _FORMATS, _NAMED, _ALIASES)
