"""The model inside the package: small, complete, loaded by transformers, and it speaks English."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from batchgen.job.model.files import BUILTIN_NAME, ModelFiles, resolve_model
from batchgen.job.text.tokenizer import TextCodec, load_codec

MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return resolve_model(None)


@pytest.fixture(scope="module")
def codec(files: ModelFiles) -> TextCodec:
    return load_codec(files)


@pytest.fixture(scope="module")
def model(files: ModelFiles) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(files.path, dtype=torch.float32)


def answer(model: Any, files: ModelFiles, codec: TextCodec, ids: list[int]) -> str:
    import torch

    out = model.generate(torch.tensor([ids]), max_new_tokens=120, do_sample=False)
    new = out[0, len(ids) :].tolist()
    assert new[-1] in files.eos_token_ids or len(new) == 120
    return codec.decode_batch([new])[0]


def chat(model: Any, files: ModelFiles, codec: TextCodec, text: str) -> str:
    return answer(model, files, codec, codec.render([{"role": "user", "content": text}]))


def test_it_fits_in_ten_megabytes(files: ModelFiles) -> None:
    assert sum(path.stat().st_size for path in files.path.rglob("*")) < MAX_BYTES


def test_it_says_what_it_is(files: ModelFiles) -> None:
    assert files.builtin
    assert files.name == BUILTIN_NAME
    assert len(files.eos_token_ids) == 1
    assert files.bos_token_id not in (None, files.eos_token_ids[0])
    assert files.max_position == 1024
    assert files.generation_defaults == {"temperature": 0.0}
    files.check_supported()


def test_its_codec_needs_no_torch(codec: TextCodec) -> None:
    program = """
import json, sys
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec
codec = load_codec(resolve_model(None), hide_torch=True)
chat = codec.render([{"role": "user", "content": "Hi"}])
print(json.dumps([codec.encode_batch(["Hello 123"]), chat]))
assert "torch" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    chat_ids = codec.render([{"role": "user", "content": "Hi"}])
    assert json.loads(ran.stdout) == [codec.encode_batch(["Hello 123"]), chat_ids]


def test_text_and_chat_begin_with_one_bos(codec: TextCodec) -> None:
    for ids in [
        *codec.encode_batch(["Once upon a time"]),
        codec.render(
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
        ),
    ]:
        assert ids[0] == codec.bos_token_id
        assert ids.count(ids[0]) == 1


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Hello!", "help"),
        ("What is your name?", "language model"),
        ("Is this review positive or negative? The food was terrible.", "Negative"),
        ("What is the opposite of hot?", "cold"),
    ],
)
def test_it_answers_what_it_was_taught(
    model: Any, files: ModelFiles, codec: TextCodec, question: str, expected: str
) -> None:
    assert expected in chat(model, files, codec, question)


def test_it_tells_a_story_and_ends_it(model: Any, files: ModelFiles, codec: TextCodec) -> None:
    story = chat(model, files, codec, "Write a short story about a brave cat who finds a map.")
    assert len(story.split()) > 30
    assert story[-1] in '.!"'
    assert "cat" in story
