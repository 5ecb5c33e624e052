"""Flags, keywords, values and rows in vLLM's words work, or are answered with ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_input_shapes import parse

import batchgen
from batchgen import LLM, SamplingParams
from batchgen.api.keywords import spec_of_job, spec_of_llm
from batchgen.api.params import checked
from batchgen.cli.command import main
from batchgen.cli.flags.other_names import answer_for
from batchgen.cli.main import cli
from batchgen.cli.run import run
from batchgen.engine.request import GrammarKind
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.fields.params import PARAMETER_NAMES
from batchgen.job.fields.settings import TEMPLATE_NAMES, TRUNCATE
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec

FREQUENT = """
    tokenizer tokenizer_mode trust_remote_code tensor_parallel_size pipeline_parallel_size
    data_parallel_size distributed_executor_backend dtype quantization revision tokenizer_revision
    code_revision seed gpu_memory_utilization kv_cache_memory_bytes swap_space cpu_offload_gb
    enforce_eager max_seq_len_to_capture disable_custom_all_reduce hf_token hf_overrides
    mm_processor_kwargs compilation_config max_model_len max_num_seqs max_num_batched_tokens
    max_logprobs enable_prefix_caching enable_chunked_prefill disable_log_stats
    download_dir load_format kv_cache_dtype block_size enable_lora max_loras max_lora_rank
    limit_mm_per_prompt guided_decoding_backend structured_outputs_config reasoning_parser
    speculative_config generation_config override_generation_config logits_processors
    async_scheduling scheduling_policy served_model_name enable_expert_parallel rope_scaling
    attention_backend num_gpu_blocks_override disable_sliding_window model_impl device_ids
    lora_modules chat_template default_chat_template_kwargs enable_auto_tool_choice
    tool_call_parser input_file output_file max_inflight host port api_key
"""
"""What scripts set of vLLM 0.33's LLM, EngineArgs, `vllm serve` and `vllm run-batch`, and of those
before."""
USER = [{"role": "user", "content": "Hi"}]


def body(url: str = "/v1/chat/completions", **given: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "m", **given}}


def test_what_scripts_set_of_vllm_s_engine_is_a_flag_or_answered() -> None:
    flags = {spelling for one in run.params for spelling in [*one.opts, *one.secondary_opts]}
    for name in FREQUENT.split():
        spelled = f"--{name.replace('_', '-')}"
        assert (spelled in flags) != (answer_for(spelled) is not None), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tensor-parallel-size", "2"], "Did you mean --tensor-parallel?"),
        (["--swap-space", "4"], "'--swap-space': leave it out, it is decided by itself."),
        (["--enable_lora"], "Did you mean --adapter NAME=DIR"),
        (["--kv-sharing-fast-prefill"], "next: batchgen run --help-all lists every flag"),
        (["--quantization", "awq"], "says how in its own files: leave the flag out"),
    ],
)
def test_a_flag_of_vllm_s_is_answered_with_what_to_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--in", "a.jsonl", "--out", "o.parquet", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ({"tensor_parallel_size": 2}, "Did you mean --tensor-parallel?"),
        ({"disable_custom_all_reduce": True}, "leave it out, it is decided by itself"),
        ({"temprature": 1}, "did you mean temperature?"),
    ],
)
def test_a_keyword_of_vllm_s_is_answered_with_what_to_do(
    keyword: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        LLM(**keyword)
    assert said in refused.value.message


def test_the_page_of_vllm_says_of_no_name_falsely_that_it_is_the_same() -> None:
    page = (Path(batchgen.__file__).parent / "docs" / "vllm.md").read_text(encoding="utf-8")
    said = re.findall(r"same under the same name: (.*?)\n\n", page, re.DOTALL)
    of_rows, of_engine = ({*re.findall(r"`([a-z_]+)`", text)} for text in said)
    assert len(of_rows) > 30
    assert of_rows <= PARAMETER_NAMES | {*TEMPLATE_NAMES, TRUNCATE, "tool_choice"}
    flags = {spelling for one in run.params for spelling in one.opts}
    values = {"half", "float"}
    assert {f"--{name.replace('_', '-')}" for name in of_engine - values} <= flags


def test_words_for_a_dtype_mean_the_same() -> None:
    for word, same in {"half": "float16", "float": "float32", "bf16": "bfloat16"}.items():
        assert spec_of_llm({"dtype": word}) == spec_of_llm({"dtype": same})
    job = {"inputs": "a.jsonl", "out": "o.parquet"}
    assert spec_of_job({**job, "kv_cache_dtype": "fp8_e4m3"}) == spec_of_job(
        {**job, "kv_cache_dtype": "fp8"}
    )
    shown = CliRunner().invoke(cli, ["run", "--help-all"]).output
    assert "[auto|bfloat16|float16|float32]" in shown


def test_parameters_as_vllm_s_object_has_them_are_taken() -> None:
    given: Any = SamplingParams
    read = checked(given(bad_words=["foo"], logit_bias={5: 1.0}, stop="x", seed=None))
    assert (read.bad_phrases, read.bad_words) == (("foo",), ())
    assert (read.logit_bias, read.stop, read.seed) == (((5, 1.0),), ("x",), 0)
    assert checked(given(bad_words=((1, 2),))).bad_words == ((1, 2),)


def test_no_bound_is_no_number_of_tokens() -> None:
    given: Any = SamplingParams
    with pytest.raises(RowError, match="max_tokens must be a number"):
        checked(given(max_tokens=None))


@pytest.mark.parametrize("name", ["guided_decoding", "structured_outputs"])
def test_structured_outputs_have_their_earlier_name_too(name: str) -> None:
    row = parse({"prompt": "Hi", name: {"regex": "a+", "backend": "xgrammar"}})
    assert row.error is None
    assert row.params.structured_outputs is not None
    assert row.params.structured_outputs.kind is GrammarKind.REGEX


def test_a_list_of_token_ids_is_a_prompt() -> None:
    assert parse({"prompt": [5, 6]}).prompt_token_ids == [5, 6]
    row = parse(body("/v1/completions", prompt=[5, 6]))
    assert (row.error, row.prompt_token_ids) == (None, [5, 6])
    assert parse(body("/v1/completions", prompt=[[5, 6]])).prompt_token_ids == [5, 6]
    assert parse(body("/v1/completions", prompt=["Hi"])).prompt == "Hi"
    for several in (["a", "b"], [[5], [6]], [5, "a"]):
        error = parse(body("/v1/completions", prompt=several)).error
        assert error is not None
        assert error.code is ErrorCode.INVALID_PARAM
    both = parse({"prompt": [5], "prompt_token_ids": [5]}).error
    assert both is not None
    assert "more than one of" in both.message


def test_what_openai_s_client_sends_beside_the_rest_may_stand_in_its_own_object() -> None:
    row = parse(body(messages=USER, extra_body={"top_k": 5, "min_p": 0.1}))
    assert (row.error, row.params.top_k, row.params.min_p) == (None, 5, 0.1)
    wrong = parse(body(messages=USER, top_k=6, extra_body={"top_k": 5})).error
    assert wrong is not None
    assert "different values" in wrong.message


@pytest.mark.parametrize(
    ("content", "neutral"),
    [({"messages": USER}, [False]), ({"prompt": "Hi"}, [True]), ({"prompt": [5]}, [True, False])],
)
def test_special_tokens_are_added_as_ever_or_the_row_is_refused(
    content: dict[str, Any], neutral: list[bool]
) -> None:
    for wanted in (True, False):
        error = parse({**content, "add_special_tokens": wanted}).error
        assert (error is None) == (wanted in neutral)
        assert error is None or error.code is ErrorCode.UNSUPPORTED_SETTING


def told(tmp_path: Path, row: dict[str, Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", **row}))
    assert [one.error for one in Reader(InputSpec((str(tmp_path / "rows.jsonl"),)))] == [None]
    return [text for text in caplog.messages if "changes nothing" in text]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_gen_len", "max_tokens"),
        ("maxTokenCount", "max_tokens"),
        ("output_tokens", "max_tokens"),
        ("stop_words", "stop"),
        ("bad_words_list", "bad_words"),
        ("grammar", "structured_outputs"),
        ("generate_kwargs", "params"),
        ("temp", "temperature"),
        ("top_n_tokens", "top_logprobs"),
        ("truncate", "truncate_prompt_tokens"),
    ],
)
def test_another_tool_s_name_of_a_parameter_is_told_by_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, meant: str
) -> None:
    (said,) = told(tmp_path, {name: "1"}, caplog)
    assert said.endswith(f"did you mean {meant}?")


def test_settings_held_by_a_column_of_any_name_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = {"num_predict": 4, "temperature": 0, "num_ctx": 512}
    (said,) = told(tmp_path, {"options": held, "id": 1}, caplog)
    assert "column 'options' holds num_predict, temperature, and changes nothing" in said
    assert said.endswith("settings are read in params")
    for harmless in ({"options": ["a", "b"]}, {"meta": {"n": 3, "seed": 1, "source": "x"}}):
        assert told(tmp_path, harmless, caplog) == []


@pytest.mark.parametrize(
    ("name", "value", "off"),
    [
        ("return_full_text", True, False),
        ("handle_long_generation", "hole", None),
        ("stop_sequence", ".", None),
        ("clean_up_tokenization_spaces", True, False),
    ],
)
def test_a_pipeline_s_setting_is_off_or_refused(name: str, value: Any, off: Any) -> None:
    error = parse({"prompt": "a", name: value}).error
    assert error is not None
    assert (error.code, "is not served; " in error.message) == (ErrorCode.UNSUPPORTED_SETTING, True)
    assert parse({"prompt": "a", name: off}).error is None


def test_a_batch_row_without_url_is_known_by_its_body() -> None:
    for given in ({"messages": USER}, {"prompt": "Hi"}, {"input": "Hi"}):
        row = parse({"custom_id": "a", "body": {"max_tokens": 3, **given}})
        assert (row.id, row.params.max_tokens) == ("a", 3)
        assert (row.prompt or row.messages) == ("Hi" if "prompt" in given else USER)
    error = parse({"custom_id": "a", "body": {"max_tokens": 3}}).error
    assert error is not None
    assert "url null is not served" in error.message


def test_contents_of_gemini_are_a_chat() -> None:
    contents = [
        {"parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [{"text": "Yes"}, {"text": "?"}]},
        {"role": "user", "parts": {"text": "Go on"}},
    ]
    row = parse({"messages": contents})
    assert [one["role"] for one in row.messages or ()] == ["user", "assistant", "user"]
    assert row.messages[1]["content"] == [  # type: ignore[index]
        {"type": "text", "text": "Yes"}, {"type": "text", "text": "?"},
    ]  # fmt: skip
    error = parse({"messages": [{"parts": [{"inlineData": {"data": "x"}}]}]}).error
    assert error is not None
    assert "messages[0].parts may hold texts only" in error.message


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"inputs": "Hi", "parameters": {}, "tag": "x"}, "; give --prompt-column inputs"),
        ({"task_id": "a/1", "question": "Hi"}, "; give --prompt-column question"),
        ({"input_ids": [1, 2], "output_tokens": 3}, "; give --prompt-column input_ids"),
        (
            {"key": 1, "request": {"contents": [{"parts": [{"text": "Hi"}]}]}},
            "'request' holds its contents",
        ),
        ({"input": {"prompt": "Hi"}, "n": 1}, "'input' holds its prompt: jq -c '.input + del"),
    ],
)
def test_where_a_row_s_prompt_stands_is_told(row: dict[str, Any], said: str) -> None:
    error = parse(row).error
    assert error is not None
    assert error.code is ErrorCode.MISSING_PROMPT
    assert said in error.message


def test_no_column_is_guessed_where_several_may_be_the_prompt() -> None:
    for row in ({"instruction": "Add", "input": "2"}, {"category": "x", "turns": ["a", "b"]}):
        error = parse(row).error
        assert error is not None
        assert "--prompt-column" not in error.message


def test_a_pydantic_model_is_answered_with_its_schema() -> None:
    class Colour:  # as pydantic's BaseModel has it
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object"}

    for given in ({"guided_json": Colour}, {"structured_outputs": {"json": Colour}}):
        error = parse({"prompt": "a", **given}).error
        assert error is not None
        assert "model_json_schema()" in error.message
    assert parse({"prompt": "a", "guided_json": Colour.model_json_schema()}).error is None


def test_tools_of_anthropic_are_functions() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    theirs = {"name": "look", "description": "Looks.", "input_schema": schema}
    ours = {"name": "look", "description": "Looks.", "parameters": schema}
    for given in ([theirs], json.dumps([theirs])):
        row = parse({"messages": USER, "tools": given, "tool_choice": "required"})
        assert row.error is None
        assert row.template_kwargs["tools"] == [{"type": "function", "function": ours}]
        assert row.params.structured_outputs is not None
    bare = {"name": "look", "parameters": schema}
    assert parse({"messages": USER, "tools": [bare]}).template_kwargs["tools"] == [bare]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_a_choice_of_tools_is_read_as_anthropic_writes_it(
    theirs: dict[str, str], ours: Any
) -> None:
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("look", "listen")]
    chat = {"messages": USER, "tools": tools}
    expected = parse({**chat, "tool_choice": ours})
    for given in (theirs, json.dumps(theirs)):
        row = parse({**chat, "tool_choice": given})
        assert (row.error, row.forced_tool) == (None, expected.forced_tool)
        assert (row.params, row.template_kwargs) == (expected.params, expected.template_kwargs)
    one = parse({**chat, "tool_choice": {**theirs, "disable_parallel_tool_use": True}})
    alone = parse({**chat, "tool_choice": ours, "parallel_tool_calls": False})
    assert (one.error is None, one.params) == (alone.error is None, alone.params)


def test_blocks_of_anthropic_s_messages_are_calls_results_and_thoughts() -> None:
    used = {"type": "tool_use", "id": "t1", "name": "look", "input": {"q": "sea"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "blue"}
    listed = {
        "type": "tool_result",
        "tool_use_id": "t2",
        "content": [{"type": "text", "text": "x"}],
    }
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    text = {"type": "text", "text": "So?"}
    chat = [
        *USER,
        {"role": "assistant", "content": [thought, text, used]},
        {"role": "user", "content": [result, listed, text]},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [result]},
    ]
    row = parse({"messages": chat})
    assert row.error is None
    call = {"name": "look", "arguments": '{"q": "sea"}'}
    asked = {"id": "t1", "type": "function", "function": call}
    assert row.messages == [
        *USER,
        {
            "role": "assistant",
            "content": [text],
            "tool_calls": [asked],
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "tool_call_id": "t1", "content": "blue"},
        {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": [text]},
        {"role": "assistant", "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "t1", "content": "blue"},
    ]
    image = {"type": "image", "source": {}}
    error = parse({"messages": [{"role": "user", "content": [image, result]}]}).error
    assert error is not None
    assert "may hold text parts only" in error.message


@pytest.mark.parametrize("kind", [["x"], {"a": 1}, 5, None])
def test_who_speaks_and_what_an_item_is_may_be_anything_and_ends_no_job(kind: Any) -> None:
    spoken = parse({"messages": [{"from": kind, "value": "a"}]})
    item = parse(
        body("/v1/responses", input=[*USER, {"type": kind, "text": "a"}]), ignore_model=True
    )
    for row in (spoken, item):
        assert row.error is not None
        assert row.error.code is ErrorCode.INVALID_ROW
