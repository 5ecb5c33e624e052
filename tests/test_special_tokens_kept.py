"""Special tokens stand in the text of rows that want them, and count for their stop strings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answer_tokenizers import tag_codec
from test_reasoning import OPENS, answered
from tokenizers import Tokenizer, models, pre_tokenizers

from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError
from batchgen.job.fields.params import read_params
from batchgen.job.text.backend_codec import BackendCodec
from batchgen.job.text.kept_specials import with_special_tokens
from batchgen.job.text.stop_strings import make_stop_checker

TAGS = ["<think>", "</think>", "<a>", "<b>"]
KEPT = SamplingParams(skip_special_tokens=False)


def test_they_are_kept_where_a_row_asks_for_it() -> None:
    codec = tag_codec(special=TAGS, template="{{ messages[0].content }}")
    text = "x<a><b>y<think>z"
    assert answered(codec, text).completion == "xyz"
    assert answered(codec, text, params=KEPT).completion == text
    raw = answered(codec, text, params=KEPT, messages=None, prompt="p")
    assert raw.completion == text


def test_thinking_is_told_apart_all_the_same() -> None:
    codec = tag_codec(special=TAGS, template=OPENS)
    out = answered(codec, "o<a>k</think>y<b>", params=KEPT)
    assert (out.reasoning, out.completion) == ("o<a>k", "y<b>")


@pytest.mark.parametrize("skip", [True, False])
def test_a_stop_string_is_looked_for_in_the_text_as_it_is_written(skip: bool) -> None:
    codec = tag_codec(special=TAGS, template="{{ messages[0].content }}")
    ids = codec.encode_plain(["x<a>y"])[0]
    seen = codec if skip else with_special_tokens(codec)
    assert make_stop_checker(seen, ["xy"])(ids) == ("xy" if skip else None)  # type: ignore[misc]
    assert make_stop_checker(seen, ["<a>y"])(ids) == (None if skip else "<a>y")  # type: ignore[misc]
    params = SamplingParams(skip_special_tokens=False, stop=("<a>y",))
    assert answered(codec, "x<a>y", stop="<a>y", params=params).completion == "x"


def test_no_space_comes_between_two_of_them_where_a_row_wants_none() -> None:
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "y": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<a>", "<b>"])
    codec = BackendCodec(tokenizer, None, None, 5)
    ids = codec.encode_plain(["x <a><b> y"])[0]
    given = {"messages": None, "prompt": "x"}
    assert answered(codec, ids, params=KEPT, **given).completion == "x <a> <b> y"
    none = replace(KEPT, spaces_between_special_tokens=False)
    assert answered(codec, ids, params=none, **given).completion == "x <a><b> y"


def test_the_names_are_parameters_and_booleans() -> None:
    assert read_params({"skip_special_tokens": False}) == {"skip_special_tokens": False}
    with pytest.raises(RowError) as refused:
        read_params({"spaces_between_special_tokens": "no"})
    assert refused.value.code is ErrorCode.INVALID_PARAM
