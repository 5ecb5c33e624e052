"""A folder whose only vocabulary is Mistral's tekken.json makes prompts as its model knows them."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec

pytest.importorskip("transformers.integrations.mistral.tokenizer")

SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"]
TEMPLATE = "{{ bos_token }}[INST]{{ messages[0].content }}[/INST]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Bytes and two longer tokens; the last is beyond `default_vocab_size`, and so none."""
    pieces = [*(bytes([value]) for value in range(256)), b"He", b"lo"]
    vocab = [{"rank": i, "token_bytes": b64encode(one).decode()} for i, one in enumerate(pieces)]
    config = {
        "pattern": r"\s?\p{L}+|\s+|[^\s\p{L}]+",
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(SPECIAL) + len(vocab) - 1,
        "default_num_special_tokens": len(SPECIAL),
        "version": "v7",
    }
    special = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(SPECIAL)]
    told = {"config": config, "vocab": vocab, "special_tokens": special}
    (tmp_path / "tekken.json").write_text(json.dumps(told))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    return tmp_path


def ids(text: bytes) -> list[int]:
    return [len(SPECIAL) + value for value in text]


def test_a_prompt_begins_with_the_token_that_begins_texts(folder: Path) -> None:
    codec = load_codec(resolve_model(str(folder)))
    he, low, o = len(SPECIAL) + 256, *ids(b"lo")
    assert codec.encode_batch(["Hello", ""]) == [[1, he, *ids(b"l"), low, o], [1]]


def test_a_chat_has_one_and_a_template_is_told_of_it(folder: Path) -> None:
    codec = load_codec(resolve_model(str(folder)), TEMPLATE)
    messages = [{"role": "user", "content": "Hi"}]
    assert codec.render_text(messages) == "<s>[INST]Hi[/INST]"
    assert codec.render(messages) == [1, 3, *ids(b"Hi"), 4]
    assert codec.decode_batch([[1, *ids(b"Hi"), 2]]) == ["Hi"]
