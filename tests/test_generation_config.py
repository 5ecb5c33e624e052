"""What a model's generation_config.json forbids is forbidden, as `generate` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tokenizer_folders import make
from transformers import AutoModelForCausalLM, GenerationConfig

from batchgen import LLM
from batchgen.job.model.files import resolve_model

PROMPTS = [[5, 6, 7], list(range(10, 40)), [3] * 9]
NUM_TOKENS = 16


def saved(folder: Path, model_type: str = "llama", **settings: Any) -> Path:
    """A tiny model whose folder has these settings."""
    make(folder, "gpt2")
    module = tiny_model(model_type, **({"vocab_size": 700} if model_type == "llama" else {}))
    module.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=2, max_new_tokens=NUM_TOKENS, **settings
    )
    module.save_pretrained(folder)
    return folder


def generated(folder: Path) -> list[list[int]]:
    module: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = module.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        answers.append(output[0, len(prompt) :].tolist())
    return answers


def served(folder: Path, **row: Any) -> list[list[int]]:
    with LLM(str(folder), device="cpu", dtype="float32") as model:
        return [list(done.token_ids) for done in model.generate(PROMPTS, row or None)]


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Answers of the model without such settings."""
    return generated(saved(tmp_path_factory.mktemp("free") / "m"))


def test_what_it_forbids_is_forbidden_as_in_generate(tmp_path: Path, free: list[list[int]]) -> None:
    common = free[1][0]
    for number, settings in enumerate(
        (
            {"suppress_tokens": [common, free[0][1]]},
            {"bad_words_ids": [[common], free[0][:2], [2]]},
            {"no_repeat_ngram_size": 2},
            {"no_repeat_ngram_size": 1, "suppress_tokens": [2], "bad_words_ids": [[common]]},
        )
    ):
        folder = saved(tmp_path / str(number), **settings)
        expected = generated(folder)
        assert expected != free
        assert served(folder) == expected, settings


def test_a_rows_own_bad_words_stand_beside_the_model_s(
    tmp_path: Path, free: list[list[int]]
) -> None:
    ours, theirs = free[0][0], free[1][0]
    both = saved(tmp_path / "both", suppress_tokens=[ours, theirs])
    one = saved(tmp_path / "one", suppress_tokens=[theirs])
    assert served(one, bad_words_ids=[[ours]]) == generated(both) != generated(one)


def test_what_the_config_says_of_its_text_counts_where_there_is_no_other_file(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "m", model_type="gemma3")
    (folder / "generation_config.json").unlink()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"max_new_tokens": NUM_TOKENS, "eos_token_id": 2, "suppress_tokens": None}
    path.write_text(json.dumps(config))
    free = generated(folder)
    config["text_config"] |= {
        "suppress_tokens": [free[0][0], free[1][1]],
        "repetition_penalty": 3.0,
    }
    path.write_text(json.dumps(config))
    expected = generated(folder)
    assert expected != free
    assert served(folder) == expected


def test_code_of_the_model_s_own_in_place_of_generate_is_told_of(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    assert resolve_model(str(folder)).ignored_settings == ()
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("def generate(model): ...")
    assert resolve_model(str(folder)).ignored_settings == ("custom_generate",)
