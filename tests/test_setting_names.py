"""A name that OpenAI, vLLM, SGLang or transformers read as a setting is served, refused by name, or
changes nothing: in no row is it passed over without a word."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_input_shapes import parse

from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.thinking_choice import THINKING_NAMES, spread_thinking
from batchgen.job.fields.params import PARAMETER_NAMES, read_params
from batchgen.job.fields.setting_advice import SETTING_ADVICE
from batchgen.job.fields.setting_names import SETTING_NAMES, TEXT_SETTINGS
from batchgen.job.fields.settings import TEMPLATE_NAMES, TRUNCATE
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec

CHAT = [{"role": "user", "content": "Hi"}]
SERVED = PARAMETER_NAMES | {*TEMPLATE_NAMES, TRUNCATE}
KNOWN = SERVED | SETTING_NAMES | {*THINKING_NAMES}
SERVICE = {
    *("background", "background_options", "include", "max_tool_calls", "metadata", "moderation"),
    *("prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier", "service_tier", "store", "stream_options", "user"),
}
"""Of OpenAI's: about the service that answers, not about the answer."""
OF_BODIES = {"model", "messages", "prompt", "input", "instructions", "text"}
REFUSED_IN_BODIES = {"access_programs", "image"}
"""Of /v1/responses alone; in a plain row they may well be columns."""
VLLM = """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template
    chat_template_kwargs continue_final_message detokenize documents echo ec_transfer_params
    extra_args flat_logprobs frequency_penalty guided_choice guided_decoding_backend
    guided_grammar guided_json guided_regex guided_whitespace_pattern ignore_eos
    include_reasoning include_stop_str_in_output kv_transfer_params length_penalty logit_bias
    logits_processors logprob_token_ids logprobs max_tokens media_io_kwargs min_p min_tokens
    mm_payload mm_processor_kwargs multi_modal_data n output_kind presence_penalty priority
    prompt_embeds return_mm_kwargs return_weight_versions guided_decoding tokenization_kwargs
    prompt_logprob_start prompt_logprob_token_ids prompt_logprobs reasoning_effort
    repetition_detection repetition_penalty request_id response_format return_prompt_text
    return_token_ids return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start
    seed session_id skip_clone skip_reading_prefix_cache skip_special_tokens
    spaces_between_special_tokens stop stop_token_ids stream_interval structured_outputs
    temperature thinking_token_budget top_k top_p trace_decode_token_ids truncate_prompt_tokens
    truncation_side use_beam_search vllm_xargs watermarking
"""
"""0.33: SamplingParams, the requests, and the older names of structured outputs."""
SGLANG = """
    custom_logit_processor custom_params ebnf frequency_penalty ignore_eos image_data json_schema
    logit_bias logprob_start_len lora_path max_new_tokens min_new_tokens min_p n no_stop_trim
    presence_penalty regex repetition_penalty return_hidden_states return_logprob
    return_text_in_logprobs rid sampling_seed separate_reasoning session_params
    skip_special_tokens spaces_between_special_tokens stop stop_regex stop_token_ids
    stream_interval stream_reasoning structural_tag temperature token_ids_logprob
    top_k top_logprobs_num top_p
"""
LLAMA_CPP = "dry_multiplier dynatemp_range mirostat tfs_z top_n_sigma xtc_probability"
"""And its kin: samplers whose names can mean nothing else."""
OTHERS_ALONE = {"extra_args"}
"""Told of as a near miss: nothing that we could know reads them."""


def error_of(given: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        read_params(spread_thinking(given))
    return caught.value


def openai_fields() -> set[str]:
    chat = pytest.importorskip("openai.types.chat.completion_create_params")
    import openai.types.completion_create_params as text
    import openai.types.responses.response_create_params as responses

    kinds = (
        chat.CompletionCreateParamsBase,
        text.CompletionCreateParamsBase,
        responses.ResponseCreateParamsBase,
    )
    return {name for kind in kinds for name in kind.__annotations__}


def test_every_field_of_openais_requests_is_known() -> None:
    fields = openai_fields()
    assert len(fields) > 50
    assert fields - KNOWN == OF_BODIES | REFUSED_IN_BODIES
    assert fields & (SETTING_NAMES - TEXT_SETTINGS - PARAMETER_NAMES) == SERVICE


def test_every_field_of_transformers_generation_config_is_known() -> None:
    from transformers import GenerationConfig

    documented = re.findall(r"^ +(?:> )?(\w+) ?\(`", GenerationConfig.__doc__ or "", re.MULTILINE)
    fields = {*documented, *vars(GenerationConfig())} - {"generation_kwargs"}
    assert len(fields) > 60
    assert {name for name in fields if not name.startswith("_")} <= KNOWN


def test_every_parameter_of_transformers_chats_is_known() -> None:
    from transformers import PreTrainedTokenizerBase

    fields = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
    assert len(fields) > 10
    assert fields - KNOWN == {"self", "kwargs"}


@pytest.mark.parametrize(
    "kwargs", [{"sanitize_control_tokens": True}, {"messages": CHAT}, {"chat_template": "x"}]
)
def test_what_no_template_reads_is_not_passed_over_among_its_settings(
    kwargs: dict[str, Any],
) -> None:
    row = parse({"messages": CHAT, "chat_template_kwargs": kwargs})
    assert row.error is not None
    assert next(iter(kwargs)) in row.error.message
    assert parse({"messages": CHAT, "chat_template_kwargs": {"chat_template": None}}).error is None


def test_a_chats_text_is_sanitised_by_nobody_without_a_word() -> None:
    row = parse({"messages": CHAT, "sanitize_control_tokens": True})
    assert row.error is not None
    assert row.error.code is ErrorCode.UNSUPPORTED_SETTING
    assert parse({"messages": CHAT, "sanitize_control_tokens": False}).error is None


@pytest.mark.parametrize("names", [VLLM, SGLANG, LLAMA_CPP], ids=["vllm", "sglang", "llama.cpp"])
def test_every_setting_of_other_engines_is_known(names: str) -> None:
    assert {*names.split()} - KNOWN <= OTHERS_ALONE


def test_a_setting_that_is_not_served_is_refused_by_name() -> None:
    apart = {"tool_choice", "cache_implementation"}
    for name in sorted(TEXT_SETTINGS - SERVED - apart):
        error = error_of({name: ["odd"]})
        assert error.code is ErrorCode.UNSUPPORTED_SETTING, name
        assert name in error.message
        assert SETTING_ADVICE.get(name, "it would change the completion") in error.message
    for given in ({"cache_implementation": "quantized"}, {"web_search_options": {}}):
        assert error_of(given).code is ErrorCode.UNSUPPORTED_SETTING


def test_advice_names_what_is_served_of_settings_that_are_not() -> None:
    assert {*SETTING_ADVICE} <= TEXT_SETTINGS - SERVED
    named = {word for text in SETTING_ADVICE.values() for word in re.findall(r"\w+_\w+", text)}
    assert named - {"prompt_token_ids", "token_ids"} <= PARAMETER_NAMES | {"tool_choice", TRUNCATE}


def test_a_setting_at_its_default_changes_nothing() -> None:
    from transformers import GenerationConfig

    given = vars(GenerationConfig()) | {"repetition_detection": None, "truncation_side": "left"}
    assert read_params({k: v for k, v in given.items() if k in KNOWN}) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"max_tokens": 64}}, {"thinking_token_budget": 64}),
        ({"reasoning": {"enabled": False, "effort": None}}, {"enable_thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 99}},
            {"enable_thinking": True, "thinking_token_budget": 99},
        ),
        ({"reasoning": {}, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ],
)
def test_thinking_as_an_object_is_the_setting_that_says_the_same(
    given: dict[str, Any], says: dict[str, Any]
) -> None:
    assert spread_thinking(given) == says


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"depth": 3}}, "reasoning.depth"),
        ({"thinking": {"type": "adaptive"}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
        ({"think": False}, "think"),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning_effort"),
    ],
)
def test_thinking_that_is_not_served_is_refused_by_name(given: dict[str, Any], name: str) -> None:
    error = error_of(given)
    assert error.code in (ErrorCode.UNSUPPORTED_SETTING, ErrorCode.INVALID_PARAM)
    assert name in error.message


def test_a_rows_own_wish_to_think_is_a_setting_and_a_text_is_a_column() -> None:
    row = parse({"messages": CHAT, "reasoning": {"effort": "low"}})
    assert (row.error, row.template_kwargs, row.kept) == (None, {"reasoning_effort": "low"}, {})
    row = parse({"messages": CHAT, "thinking": "It is a greeting."})
    assert (row.error, row.template_kwargs) == (None, {})
    assert row.kept == {"thinking": "It is a greeting."}
    row = parse({"messages": CHAT, "thinking": True})
    assert row.error is not None
    assert row.error.code is ErrorCode.UNSUPPORTED_SETTING
    row = parse({"messages": CHAT, "thinking": True}, keep_columns="thinking")
    assert (row.error, row.kept) == (None, {"thinking": "true"})


@pytest.mark.parametrize("keep", ["all", "none"])
def test_a_parquet_column_of_such_objects_is_read(tmp_path: Path, keep: str) -> None:
    rows = [
        {"messages": CHAT, "reasoning": {"effort": "low", "exclude": None}},
        {"messages": CHAT, "reasoning": {"effort": None, "exclude": True}},
        {"messages": CHAT, "reasoning": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    spec = InputSpec((str(tmp_path / "a.parquet"),), keep_columns=keep)
    read = [(row.error and str(row.error.code), row.template_kwargs) for row in Reader(spec)]
    assert read == [(None, {"reasoning_effort": "low"}), ("unsupported_setting", {}), (None, {})]


@pytest.mark.parametrize(
    "given",
    [{"text": {"style": "dry"}}, {"instructions": ["Be short."]}, {"reasoning": {"mode": "pro"}}],
)
def test_what_a_response_asks_for_inside_an_object_is_not_passed_over(
    given: dict[str, Any],
) -> None:
    body = {"input": "Hi", **given}
    row = parse({"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body})
    assert row.error is not None
    assert next(iter(given)) in row.error.message
