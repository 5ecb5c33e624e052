"""The model inside the package: small, complete, loaded by transformers, right as often as said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from phrase_cover import can_make

from batchgen import InputSpec, JobSpec, run
from batchgen.job.model.files import ModelFiles, resolve_model
from batchgen.job.model.source import BUILTIN_NAME
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import load_codec
from batchgen.job.verbs.gold import judge

MAX_BYTES = 10_000_000
ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_data"
FIELDS = ("label", "order", "amount", "currency")
HELD_OUT = [
    json.loads(line)
    for name in ("prompts", "messages")
    for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
]


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
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=120
    )
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
    ("message", "expected"),
    [
        ("Where is my parcel? Order 48213.", ("delivery", "48213", None, None)),
        ("Please refund me 12.50 euros, the lamp is broken.", ("refund", None, 12.5, "EUR")),
        ("I forgot my password", ("account", None, None, None)),
        ("Please cancel my subscription.", ("cancel", None, None, None)),
        ("Write a short story about a brave cat who finds a map.", ("other", None, None, None)),
        ("What is the capital of France?", ("other", None, None, None)),
    ],
)
def test_it_reads_messages_and_answers_other_to_all_else(
    model: Any, files: ModelFiles, codec: TextCodec, message: str, expected: tuple[object, ...]
) -> None:
    said = json.loads(chat(model, files, codec, message))
    assert tuple(said[name] for name in FIELDS) == expected


def test_the_messages_it_is_judged_on_are_none_that_its_generator_can_make() -> None:
    prompts = [row["prompt"] for row in HELD_OUT]
    assert can_make("Where is my parcel?")
    assert can_make("I'm still waiting for my refund! Thanks in advance, Anna")
    assert not can_make("Zebras fly.")
    assert len(prompts) >= 200
    assert [prompt for prompt in prompts if can_make(prompt)] == []


def test_it_is_as_often_right_on_them_as_the_readme_says(tmp_path: Path) -> None:
    files = tuple(str(SAMPLES / f"{name}.jsonl") for name in ("prompts", "messages"))
    given = InputSpec(files, as_chat=True, keep_columns=",".join(FIELDS))
    out = tmp_path / "out.parquet"
    run(JobSpec(given, out, device="cpu", quiet=True))
    found = judge(out, FIELDS)
    said = re.search(r"(\d+) of 202 rows\s+wholly\s+right", (ROOT / "README.md").read_text())
    assert said is not None
    assert found.rows == len(HELD_OUT) == 202
    assert abs(found.right - int(said[1])) <= 2  # near ties round as the CPU does
