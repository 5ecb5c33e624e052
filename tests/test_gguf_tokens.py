"""A GGUF vocabulary gives llama.cpp's tokens, and ends sequences where it ends them.

`data/gguf_tokens.json` holds llama.cpp's ids of `tiny_gguf_tokens.TEXTS` and the ids that it ends
with, written by `python jobs/check_gguf_tokens.py --peer PYTHON_WITH_XLLAMACPP --keep
tests/data/gguf_tokens.json`, which compares hundreds of random texts as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_model_files import write_gguf
from tiny_gguf_tokens import TEXTS, VOCABULARIES, byte_level, odd_texts, sentence_piece

from batchgen.errors import ModelRefusedError
from batchgen.gguf.tokenizer.build import build_tokenizer, check_vocabulary
from batchgen.gguf.tokenizer.joins import JoiningTokenizer
from batchgen.gguf.tokenizer.keys import tokenizer_keys
from batchgen.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from batchgen.gguf.tokenizer.special import end_ids
from batchgen.gguf.tokenizer.vocabulary import read_vocabulary, special_token_texts
from batchgen.job.model.files import resolve_model
from batchgen.job.text.backend_codec import BackendCodec

EXPECTED = json.loads((Path(__file__).parent / "data" / "gguf_tokens.json").read_text())
HERE = Path("m.gguf")


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_its_tokens_are_llama_cpps(name: str) -> None:
    metadata = VOCABULARIES[name].metadata()
    tokenizer = build_tokenizer(metadata, HERE)
    found = {text: tokenizer.encode(text).ids for text in TEXTS}
    assert found == dict(zip(TEXTS, EXPECTED[name]["ids"], strict=True))
    assert sorted(end_ids(metadata)) == EXPECTED[name]["ends"]


def test_every_pre_tokenizer_that_is_served_was_compared() -> None:
    rules = {
        PRE_TOKENIZERS[name.removeprefix("bpe/")] for name in EXPECTED if name[4:] in PRE_TOKENIZERS
    }
    assert rules == set(PRE_TOKENIZERS.values())


@pytest.mark.parametrize("name", ["bpe/gpt-2", "spm", "spm/ties", "spm/no_prefix"])
def test_a_text_comes_back_as_it_was(name: str) -> None:
    tokenizer = build_tokenizer(VOCABULARIES[name].metadata(), HERE)
    special = ("  ", "\n\n\n")  # behind a special token, SentencePiece's texts begin anew
    for text in (one for one in TEXTS[:10] if not any(token in one for token in special)):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tokens_of_equal_scores_are_joined_from_the_left() -> None:
    tokenizer = build_tokenizer(VOCABULARIES["spm/ties"].metadata(), HERE)
    assert isinstance(tokenizer, JoiningTokenizer)
    codec = BackendCodec(tokenizer, None, 1, 700)
    assert codec.encode_batch([TEXTS[0]]) == [EXPECTED["spm/ties"]["ids"][0]]
    assert codec.special_token_id("<|im_start|>") == 3
    assert json.loads(codec.vocabulary())["model"]["vocab"]["<s>"] == 1
    assert codec.encode_plain([""]) == [[]]


@pytest.mark.parametrize("name", ["spm", "spm/no_prefix"])
def test_joining_by_scores_is_what_ranked_pairs_do(name: str) -> None:
    """The two ways to encode agree, places included, where both can be taken."""
    metadata = VOCABULARIES[name].metadata()
    ranked, joining = (build_tokenizer(metadata, HERE) for _ in range(2))
    joining = JoiningTokenizer(joining, read_vocabulary(metadata, HERE))
    for text in [*TEXTS, *odd_texts(7, 50)]:
        ours, theirs = joining.encode(text), ranked.encode(text)
        assert (ours.ids, ours.offsets) == (theirs.ids, theirs.offsets), text


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer.ggml.model": "t5"}, "'t5' is not served; served: gpt2"),
    ({"tokenizer.ggml.model": "gemma4"}, "'gemma4' is not served"),
    ({"tokenizer.ggml.model": ["llama"]}, "is not served"),
    ({"tokenizer.ggml.pre": "kimi-k2"}, "pre-tokenizer 'kimi-k2' is unknown; known: .*llama-bpe"),
    ({"tokenizer.ggml.tokens": ["a", "b", "a"]}, "holds the token 'a' twice"),
    ({"tokenizer.ggml.tokens": [1, 2]}, "no list of texts"),
    ({"tokenizer.ggml.tokens": "ab"}, "no list of texts"),
    ({"tokenizer.ggml.token_type": [1]}, "token_type is no list of"),
    ({"tokenizer.ggml.token_type": 3}, "token_type is no list of"),
    ({"tokenizer.ggml.merges": None}, "lacks tokenizer.ggml.merges"),
    ({"tokenizer.ggml.merges": ["ab"]}, "names 'ab'"),
    ({"tokenizer.ggml.add_bos_token": 1}, "add_bos_token is 1, not true or false"),
    (
        {"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": 10**6},
        "adds a EOS, and tokenizer.ggml.eos_token_id names none",
    ),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_it_is_built(
    more: dict[str, Any], message: str
) -> None:
    metadata = {k: v for k, v in (byte_level("gpt-2").metadata() | more).items() if v is not None}
    with pytest.raises(ModelRefusedError, match=message) as caught:
        check_vocabulary(metadata, HERE)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize("scores", [[0.5], "0.5", ["a"] * 999])
def test_scores_that_do_not_fit_are_refused(scores: Any) -> None:
    with pytest.raises(ModelRefusedError, match="scores is no list of"):
        check_vocabulary(sentence_piece(scores=scores).metadata(), HERE)


def test_each_key_is_applied_or_listed_with_its_reason_or_refused() -> None:
    metadata = byte_level("gpt-2").metadata() | {
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.precompiled_charsmap": [1, 2],
        "tokenizer.ggml.add_sep_token": False,
        "tokenizer.ggml.padding_token_id": 2**32 - 1,
        "tokenizer.ggml.suppress_tokens": [],
        "tokenizer.chat_template": "x",
        "tokenizer.chat_template.tool_use": "y",
        "tokenizer.chat_template.rag": "z",
        "tokenizer.chat_templates": ["rag", "tool_use"],
    }
    used, unused = tokenizer_keys(metadata, HERE)
    tokenizer = {name for name in metadata if name.startswith("tokenizer.")}
    assert used | unused.keys() == tokenizer
    assert not used & unused.keys()
    assert all(unused.values())
    assert "beyond the vocabulary" in unused["tokenizer.ggml.padding_token_id"]
    assert {"tokenizer.ggml.merges", "tokenizer.chat_template.tool_use"} <= used
    space = "tokenizer.ggml.add_space_prefix"
    assert space in unused
    assert space in tokenizer_keys(metadata | {"tokenizer.ggml.model": "llama"}, HERE)[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.suppress_tokens", [5]),
        ("tokenizer.ggml.brand_new", 1),
        ("tokenizer.other.thing", 1),
        ("tokenizer.ggml.eos_token_id", [3]),
        ("tokenizer.ggml.eot_token_id", "3"),
        ("tokenizer.chat_template", ["x"]),
        ("tokenizer.chat_template.rag", 5),
    ],
)
def test_a_key_of_the_tokenizer_that_is_not_understood_is_named(key: str, value: Any) -> None:
    with pytest.raises(ModelRefusedError, match=key):
        tokenizer_keys(byte_level("gpt-2").metadata() | {key: value}, HERE)


def ends(*texts: str, **ids: int) -> set[str]:
    tokens = ["a", "b", "c", *texts]
    named = {f"tokenizer.ggml.{name}_token_id": one for name, one in ids.items()}
    found = end_ids({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, **named})
    return {tokens[one] for one in found}


def test_ends_are_the_files_and_those_that_stand_in_the_vocabulary() -> None:
    assert ends("<|im_end|>", "x", eos=4) == {"x", "<|im_end|>"}
    assert ends(eos=0, eot=1, eom=2) == {"a", "b", "c"}
    assert ends("<|end|>", "<|return|>", "<|call|>") == {"<|return|>", "<|call|>"}
    assert ends("<|end|>", "<|flush|>", "<|calls|>") == {"<|flush|>", "<|calls|>"}
    assert ends("<|end|>", "<|return|>") == {"<|end|>", "<|return|>"}
    assert ends("</s>", "<|tool_response>", "<turn|>") == {"<|tool_response>", "<turn|>"}
    assert ends("<|fim_pad|>", fim_pad=1) == {"b"}
    assert ends("<|fim_pad|>", fim_pad=99) == {"<|fim_pad|>"}
    assert ends(eos=99) == set()
    assert end_ids({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a", "b", "c"]}) == (
        2,
    )
    assert end_ids({}) == end_ids({"tokenizer.ggml.tokens": "x"}) == ()


def test_special_tokens_that_the_file_leaves_out_are_llama_cpps(tmp_path: Path) -> None:
    vocabulary = sentence_piece(bos_token_id=None, eos_token_id=None, unknown_token_id=None)
    texts = special_token_texts(vocabulary.metadata())
    assert texts == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def model(path: Path, **more: Any) -> Any:
    tokens = {k: v for k, v in byte_level("gpt-2").metadata().items() if v is not None}
    return resolve_model(str(write_gguf(path, {"general.architecture": "llama", **tokens, **more})))


def test_its_sampling_defaults_are_a_generation_configs(tmp_path: Path) -> None:
    files = model(tmp_path / "m.gguf")
    assert (files.generation_defaults, files.ignored_settings) == ({"temperature": 0.0}, ())
    asked = {"general.sampling.top_k": 20, "general.sampling.penalty_last_n": -1}
    asked |= {"general.sampling.mirostat": 2, "general.sampling.xtc_threshold": 1}
    files = model(tmp_path / "n.gguf", **asked)
    assert files.generation_defaults == {"temperature": 0.0, "top_k": 20}
    assert files.ignored_settings == ("general.sampling.mirostat",)
    with pytest.raises(ModelRefusedError, match=r"general\.sampling\.temp is no number"):
        model(tmp_path / "o.gguf", **{"general.sampling.temp": "warm"})
