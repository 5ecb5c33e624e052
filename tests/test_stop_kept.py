"""What ended a row stays in its text where the row asks for it, as vLLM has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answer_tokenizers import tag_codec
from test_reasoning import OPENS, answered

from batchgen.api.keywords import spec_of_llm
from batchgen.engine.request import Completion, FinishReason, SamplingParams, Timings
from batchgen.job.fields.params import read_params
from batchgen.job.flow.outbox import FinishedRow
from batchgen.job.flow.results import Results, ResultsOptions
from batchgen.job.rows import InputRow
from batchgen.job.text.requests import Requests

KEPT = SamplingParams(include_stop_str_in_output=True)


@pytest.mark.parametrize(("keep", "text"), [(False, "one "), (True, "one two")])
def test_a_stop_string_is_the_end_of_the_text(keep: bool, text: str) -> None:
    codec = tag_codec(template="{{ messages[0].content }}")
    params = SamplingParams(include_stop_str_in_output=keep)
    out = answered(codec, "one two", stop="two", params=params)
    assert (out.completion, out.stop_reason) == (text, "two")


def test_the_flag_and_the_row_s_own_name_are_one_setting() -> None:
    assert spec_of_llm({"include_stop_str_in_output": True}).sampling == {
        "include_stop_str_in_output": True
    }
    assert read_params({"include_stop_str_in_output": True}) == {"include_stop_str_in_output": True}


def test_what_came_with_the_stop_string_in_one_token_is_left_out() -> None:
    codec = tag_codec(other=["ab", "bcd"], template="{{ messages[0].content }}")
    assert answered(codec, "xabcdy", stop="bc", params=KEPT).completion == "xabc"


@pytest.mark.parametrize(("skip", "text"), [(True, "x"), (False, "x<b>")])
@pytest.mark.parametrize("chat", [True, False])
def test_the_token_that_ended_it_is_shown_as_far_as_special_tokens_are(
    skip: bool, text: str, chat: bool
) -> None:
    codec = tag_codec(special=["<b>"], template="{{ messages[0].content }}")
    params = replace(KEPT, skip_special_tokens=skip)
    given = {} if chat else {"messages": None, "prompt": "p"}
    ready, _ = Requests(codec).prepare([InputRow(0, "f:1", prompt="p", params=params)])
    ids = codec.encode_plain(["x<b>"])[0]
    done = Completion(0, ids, FinishReason.STOP, timings=Timings(1.0, 1.0, 1.0, 1.0))
    done.ends_with_stop_token = True
    results = Results(lambda: codec, lambda i: 1, ResultsOptions("run"))
    (out,) = results.output_rows([FinishedRow(ready[0], [done])])
    assert out.completion == text
    assert answered(codec, "x<b>", params=params, **given).completion == text


def test_thinking_is_told_apart_all_the_same() -> None:
    codec = tag_codec(other=["<think>", "</think>"], template=OPENS)
    out = answered(codec, "o</think>y.z", stop=".", params=KEPT)
    assert (out.reasoning, out.completion) == ("o", "y.")


def test_sglang_s_name_says_the_same() -> None:
    assert read_params({"no_stop_trim": True}) == {"include_stop_str_in_output": True}
