"""Prompts are made by the vocabulary that a model's files have, whatever class they name."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from batchgen.errors import ModelRefusedError
from batchgen.job.model import vocabulary_files
from batchgen.job.model.files import resolve_model
from batchgen.job.model.vocabulary_files import (
    Vocabulary,
    as_its_files_say,
    missing_packages,
    said_by_files,
    said_by_sentencepiece,
)
from batchgen.job.text.tokenizer import load_codec

WORDS = "refund order late parcel hello please return money delay box broken fix item card pay"
TEXTS = ["refund order", "please return the box", "\ufb01x it", "日 late"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SentencePiece models of both kinds."""
    draw, folder = random.Random(1), tmp_path_factory.mktemp("trained")
    lines = [" ".join(draw.choices(WORDS.split(), k=8)) for _ in range(2000)]
    for kind in ("unigram", "bpe"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(folder / kind), model_type=kind,
            byte_fallback=True, vocab_size=350, hard_vocab_limit=False, num_threads=1,
            minloglevel=5,
        )  # fmt: skip
    return {kind: folder / f"{kind}.model" for kind in ("unigram", "bpe")}


def folder_of(model: Path, folder: Path, kind: str, **more: Any) -> Path:
    folder.mkdir()
    name = "spiece.model" if kind == "T5Tokenizer" else "tokenizer.model"
    (folder / name).write_bytes(model.read_bytes())
    said = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(said | {"tokenizer_class": kind} | more)
    )
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.mark.parametrize(
    ("kind", "model", "ends"),
    [("LlamaTokenizer", "unigram", []), ("T5Tokenizer", "unigram", [2]),
     ("LlamaTokenizer", "bpe", [])],
)  # fmt: skip
def test_a_sentencepiece_model_gives_its_own_tokens_under_any_class(
    trained: dict[str, Path], tmp_path: Path, kind: str, model: str, ends: list[int]
) -> None:
    folder = folder_of(trained[model], tmp_path / "m", kind)
    own = sentencepiece.SentencePieceProcessor(model_file=str(trained[model]))
    texts = TEXTS if model == "unigram" else TEXTS[:2]  # as BPE, transformers does not normalise
    found = load_codec(resolve_model(str(folder))).encode_batch(texts)
    assert found == [own.encode(text) + ends for text in texts]


def test_a_unigram_tokenizer_json_is_read_as_it_is_under_a_class_that_makes_it_anew(
    trained: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(trained["unigram"], tmp_path / "m", "LlamaTokenizer")
    backend = as_its_files_say(folder, "m", Tokenizer.from_str(LETTERS))
    backend.save(str(folder / "tokenizer.json"))
    caplog.set_level(logging.WARNING, "batchgen")
    found = load_codec(resolve_model(str(folder))).encode_batch(TEXTS)
    assert found == [
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode(t).ids for t in TEXTS
    ]
    assert "another tokenizer of its Unigram vocabulary" in caplog.text


LETTERS = Tokenizer.from_str(
    '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": '
    'null, "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": {"type": '
    '"BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, '
    '"end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0}, '
    '"merges": []}}'
).to_str()


def test_a_tokenizer_that_agrees_with_its_files_is_left_alone(tmp_path: Path) -> None:
    backend = Tokenizer.from_str(LETTERS)
    assert as_its_files_say(tmp_path, "m", backend) is backend, "no file says otherwise"
    backend.save(str(tmp_path / "tokenizer.json"))
    assert said_by_files(tmp_path) == Vocabulary("BPE")
    assert as_its_files_say(tmp_path, "m", backend) is backend


def test_a_sentencepiece_model_says_what_it_is_and_other_bytes_say_nothing(
    trained: dict[str, Path],
) -> None:
    unigram, bpe = (said_by_sentencepiece(path.read_bytes()) for path in trained.values())
    assert unigram == Vocabulary("Unigram", falls_back=True, unknown=0)
    assert bpe == Vocabulary("BPE", falls_back=True)
    others = [b"", b"IQ== 0\nIg== 1\n", b"\xff" * 40, trained["bpe"].read_bytes()[:100]]
    assert [said_by_sentencepiece(other) for other in others] == [None] * 4


def test_a_vocabulary_that_no_tokenizer_reads_is_refused_by_name(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(trained["unigram"], tmp_path / "m", "LlamaTokenizer")
    other = Tokenizer.from_str(LETTERS)
    monkeypatch.setattr(vocabulary_files, "_without_class", lambda folder: other)
    with pytest.raises(ModelRefusedError, match=r"m: .* of its Unigram .* fallback"):
        as_its_files_say(folder, "m", other)


def test_the_packages_that_read_a_sentencepiece_model_are_named_where_they_are_missing(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(trained["bpe"], tmp_path / "m", "LlamaTokenizer")
    assert missing_packages(folder) is None
    monkeypatch.setattr(vocabulary_files, "version_of", lambda package: None)
    assert missing_packages(folder) == "pip install sentencepiece protobuf"
    assert missing_packages(tmp_path) is None, "there is no such model"
