"""Thinking and answer stand in their own columns, whatever the format, and however it was cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from answer_tokenizers import plain_ids, tag_codec
from click.testing import CliRunner
from echo_runs import write_rows

from batchgen.cli.main import cli
from batchgen.engine.request import Completion, FinishReason, SamplingParams, Timings
from batchgen.errors import FingerprintMismatchError, UsageError
from batchgen.job.answers.reading import AnswerParsers
from batchgen.job.answers.thinking_formats import thinking_format
from batchgen.job.flow.outbox import FinishedRow
from batchgen.job.flow.results import Results, ResultsOptions
from batchgen.job.rows import InputRow, OutputRow
from batchgen.job.text.backend_codec import BackendCodec
from batchgen.job.text.requests import Requests

USER = [{"role": "user", "content": "Hi"}]
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
OPENS = "{% for m in messages %}<|User|>{{ m.content }}{% endfor %}<|Assistant|><think>\n"
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "<|start|>assistant{% if false %}<|channel|>{% endif %}"
)
HARMONY_TAGS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>", "<|call|>"]


def answered(
    codec: BackendCodec,
    output: str | list[int],
    parser: str = "auto",
    finish: FinishReason = FinishReason.STOP,
    stop: str | None = None,
    **row: Any,
) -> OutputRow:
    """The output row of a prompt (a chat, unless `row` says otherwise) and what was sampled."""
    given = {"messages": USER} | row
    template = None if codec.template is None else codec.template.source
    requests = Requests(codec, parsers=AnswerParsers(codec, template, parser))
    requests._process = None
    ready, failed = requests.prepare([InputRow(0, "f:1", **given)])
    assert not failed, failed[0].error
    ids = codec.encode_plain([output])[0] if isinstance(output, str) else output
    done = Completion(0, ids, finish, stop, timings=Timings(1.0, 1.0, 1.0, 1.0))
    (out,) = Results(lambda: codec, lambda i: 1, ResultsOptions("run", save_token_ids=True))\
        .output_rows([FinishedRow(ready[0], [done])])  # fmt: skip
    assert (out.token_ids, out.completion_tokens) == (ids, len(ids))
    return out


def columns(out: OutputRow) -> tuple[str | None, str | None]:
    return out.reasoning, out.completion


@pytest.mark.parametrize("kind", ["special", "other", "text"])
@pytest.mark.parametrize(
    ("template", "output", "expected"),
    [
        (QWEN, "<think>\nTwo and two.\n</think>\n\nFour.", ("Two and two.", "Four.")),
        (QWEN, "Four.", (None, "Four.")),
        (QWEN, "<think>\n\n</think>\n\nFour.", (None, "Four.")),
        (QWEN, "<think>\nTwo and", ("Two and", "")),
        (OPENS, "Two and two.\n</think>\n\nFour.", ("Two and two.", "Four.")),
        (OPENS, "<think>\nTwo.\n</think>\n\nFour.", ("Two.", "Four.")),
        (OPENS, "Two and", ("Two and", "")),
        (OPENS, "a</think> b </think> c", ("a", "b </think> c")),
    ],
)
def test_thinking_is_told_from_the_answer(
    template: str, output: str, expected: tuple[str | None, str], kind: str
) -> None:
    tags = {} if kind == "text" else {kind: ["<think>", "</think>"]}
    codec = tag_codec(**tags, template=template)
    if kind == "special" and expected[1].count("</think>"):
        expected = (expected[0], "b  c")  # left out, as every special token
    assert columns(answered(codec, output)) == expected


@pytest.mark.parametrize("tags", ["special", "other", "text"])
@pytest.mark.parametrize(
    ("template", "output", "thought"),
    [
        (QWEN, "<think>{}</think>Yes", "why not"),
        (OPENS, "{}</think>Yes", "why not"),
        (OPENS, "{}", "cut in the middle"),
        (QWEN, "Yes", ""),
    ],
    ids=["begins", "was begun", "cut", "none"],
)
def test_tokens_of_thinking_are_counted(
    tags: str, template: str, output: str, thought: str
) -> None:
    known = {} if tags == "text" else {tags: ["<think>", "</think>"]}
    row = answered(tag_codec(**known, template=template), output.format(thought))
    assert row.reasoning_tokens == (len(thought) or None)  # every byte is a token


def test_tokens_of_harmonys_thinking_are_counted() -> None:
    output = "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>"
    row = answered(tag_codec(HARMONY_TAGS, template=HARMONY), output + "Because")
    assert (row.completion, row.reasoning_tokens) == ("Because", 3)
    codec = tag_codec(other=["<think>", "</think>"], template=QWEN)
    ended = answered(codec, "nobody began</think>Yes")
    assert (ended.reasoning, ended.reasoning_tokens) == ("nobody began", len("nobody began"))


@pytest.mark.parametrize("kind", ["special", "other"])
def test_text_that_looks_like_a_tag_is_text(kind: str) -> None:
    codec = tag_codec(**{kind: ["<think>", "</think>"]}, template=OPENS)
    ids = plain_ids(codec, "The tag </think> ends it.")
    ids += codec.encode_plain(["</think>"])[0] + plain_ids(codec, "<think> begins it.")
    out = answered(codec, ids)
    assert columns(out) == ("The tag </think> ends it.", "<think> begins it.")


def test_where_thinking_is_off_all_is_answer() -> None:
    codec = tag_codec(other=["<think>", "</think>"], template=QWEN)
    off = {"enable_thinking": False}
    out = answered(codec, "Not </think> this.", template_kwargs=off)
    assert columns(out) == (None, "Not </think> this.")


def test_a_prompts_own_tags_are_not_the_answers() -> None:
    codec = tag_codec(other=["<think>", "</think>"], template=QWEN)
    asked = [{"role": "user", "content": "What does <think> mean?"}]
    assert columns(answered(codec, "A tag.", messages=asked)) == (None, "A tag.")


@pytest.mark.parametrize(
    ("begun", "output", "expected"),
    [
        ("<think>Well, ", "yes.</think>Sure.", ("yes.", "Sure.")),
        ("<think>Well.</think>Su", "re.</think>", (None, "re.</think>")),
        ("Su", "re.", (None, "re.")),
    ],
)
def test_a_message_that_is_continued_goes_on_where_it_stood(
    begun: str, output: str, expected: tuple[str | None, str]
) -> None:
    codec = tag_codec(other=["<think>", "</think>"], template=QWEN)
    messages = [*USER, {"role": "assistant", "content": begun}]
    kwargs = {"continue_final_message": True}
    out = answered(codec, output, messages=messages, template_kwargs=kwargs)
    assert columns(out) == expected


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("mistral", "[THINK]Two.[/THINK]Four."),
        ("magistral", "[THINK]Two.[/THINK]Four."),
        ("seed_oss", "<seed:think>Two.</seed:think>Four."),
        ("granite", "Here is my thought process: Two. Here is my response: Four."),
        ("granite", "Here's my thought process:\nTwo.\nHere's my response:\nFour."),
        ("gemma4", "<|channel>thought\nTwo.<channel|>Four."),
        ("cohere-command3",
         "<|START_THINKING|>Two.<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|>"),
        ("hunyuan_a13b", "<think>\nTwo.\n</think>\n<answer>\nFour.\n</answer>"),
        ("apriel", "Here are my reasoning steps:\nTwo.\n[BEGIN FINAL RESPONSE]\nFour."),
        ("apertus", "<|inner_prefix|>Two.<|inner_suffix|>Four."),
        ("gpt-oss", "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant"
                    "<|channel|>final<|message|>Four."),
        ("deepseek-r1", "Two.</think>\n\nFour."),
        ("glm45", "\n<think>Two.</think>\nFour."),
        ("minicpm3", "<|thought_start|>\nTwo.\n<|thought_end|>\nFour."),
        ("longcat2", "<longcat_think>\nTwo.\n</longcat_think>\nFour."),
        ("solar-open2", "<|think:start|>Two.<|think:end|>Four."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokens", [True, False])
def test_formats_go_by_name_for_raw_prompts_too(name: str, output: str, tokens: bool) -> None:
    form = thinking_format(name, None)
    assert form is not None
    tags = [tag for tag in form.tags if tag.startswith(("<", "["))] if tokens else []
    codec = tag_codec(special=[tag for tag in tags if "thought" not in tag] + ["<|channel>"])
    out = answered(codec, output, parser=name, messages=None, prompt="2 + 2")
    assert columns(out) == ("Two.", "Four.")
    assert answered(codec, "x", messages=None, prompt="2 + 2").reasoning is None


def test_harmonys_channels_are_thinking_preamble_and_answer() -> None:
    codec = tag_codec(special=HARMONY_TAGS, template=HARMONY)
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "Let me see. <|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}"
    )
    assert columns(answered(codec, text)) == ("One.\nTwo.", "Let me see. {}")
    cut = text[: text.index("One") + 2]
    assert columns(answered(codec, cut, finish=FinishReason.LENGTH)) == ("On", "")
    header = text[: text.index("commentary") + 4]
    assert columns(answered(codec, header)) == ("One.", "")
    assert columns(answered(codec, "<|channel|>final<|message|>Hi")) == (None, "Hi")


def test_harmonys_answer_can_end_anywhere() -> None:
    codec = tag_codec(HARMONY_TAGS, template=HARMONY)
    output = (
        "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    )
    ids = codec.encode_plain([output])[0]
    for length in range(len(ids) + 1):
        row = answered(codec, ids[:length], finish=FinishReason.LENGTH)
        assert row.status == "ok"
        assert row.reasoning in (None, "w", "wh", "why")
    assert (row.reasoning, row.completion) == ("why", "Yes")
    assert answered(codec, "No channel at all").completion == "No channel at all"


@pytest.mark.parametrize(
    ("output", "stop", "expected"),
    [
        ("One.</think>Two. END", " END", ("One.", "Two.")),
        ("One. END", " END", ("One.", "")),
        ("One.</think>", "</think>", ("One.", "")),
    ],
)
def test_a_stop_string_is_cut_off_where_it_stands(
    output: str, stop: str, expected: tuple[str, str]
) -> None:
    codec = tag_codec(other=["<think>", "</think>"], template=OPENS)
    params = SamplingParams(stop=(stop,))
    assert columns(answered(codec, output, stop=stop, params=params)) == expected


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (QWEN, "think"), (OPENS, "think"), (HARMONY, "harmony"),
        ("{{ '[THINK]' }}", "mistral"), ("{{ '<seed:think>' }}", "seed_oss"),
        ("{{ 'Here is my thought process: ' }}", "granite"),
        ("{{ '<|channel>thought\n' }}", "gemma4"),
        ("{{ '<think>' }}{{ '<answer>' }}", "hunyuan_a13b"),
        ("{{ '<longcat_think>' }}", "longcat2"), ("{{ '<|think:start|>' }}", "solar_open2"),
        ("{{ messages }}", None),
    ],
)  # fmt: skip
def test_the_format_is_the_templates(template: str, name: str | None) -> None:
    form = thinking_format("auto", template)
    assert (form.name if form else None) == name


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no such parser") as refused:
        thinking_format("qwen33", None)
    assert "did you mean qwen3?" in refused.value.hint
    assert thinking_format("none", QWEN) is None


def test_a_whole_job_fills_the_column_and_has_the_parser_in_its_fingerprint(
    tmp_path: Path,
) -> None:
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": "<think>One.</think>Two."}]},
        {"id": "b", "prompt": "<think>One.</think>Two."},
    ]
    path, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    template = "{{ messages[0].content }}{# <think> #}"
    command = ["run", "-i", path, "-o", out, "--engine", "echo", "--chat-template", template]
    ran = CliRunner().invoke(cli, [*map(str, command)])
    assert ran.exit_code == 0, ran.output
    table = pq.read_table(out)
    assert table["reasoning"].to_pylist() == ["One.", None]
    assert table["completion"].to_pylist() == ["Two.", "<think>One.</think>Two."]
    changed = CliRunner().invoke(cli, [*map(str, command), "--reasoning-parser", "qwen3"])
    assert isinstance(changed.exception, FingerprintMismatchError)
    assert "reasoning_parser" in str(changed.exception)
    refused = CliRunner().invoke(cli, [*map(str, command), "--reasoning-parser", "qwen33"])
    assert isinstance(refused.exception, UsageError)
    assert json.loads(ran.stdout.splitlines()[-1])["ok"] == 2
