"""The model inside the package, run by batchgen and by transformers: what log-probabilities are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from echo_runs import output_rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

import batchgen
from batchgen import InputSpec, JobSpec, run

FOLDER = next(Path(batchgen.__file__).parent.joinpath("models").glob("*/config.json")).parent


@cache
def model() -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    transformers.logging.set_verbosity_error()
    return loaded.eval()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@torch.inference_mode()
def log_probabilities(token_ids: Sequence[int]) -> torch.Tensor:
    """[num_tokens, vocab_size]: after each token, of what comes next."""
    logits: torch.Tensor = model()(torch.tensor([list(token_ids)])).logits[0]
    return torch.log_softmax(logits.float(), dim=-1)


def answers(
    folder: Path, rows: Iterable[Mapping[str, Any]], name: str = "out", **settings: Any
) -> list[dict[str, Any]]:
    """The output's rows of one job over these rows, in float32."""
    source = write_rows(folder / f"{name}.jsonl", rows)
    given = InputSpec((str(source),), **settings.pop("input", {}))
    out = folder / f"{name}.parquet"
    fixed = {"device": "cpu", "dtype": "float32", "quiet": True}
    run(JobSpec(given, out, **(fixed | settings)))
    return output_rows(out)


def chat_ids(messages: Sequence[Mapping[str, str]]) -> list[int]:
    """A chat's ids, its generation prompt included."""
    text = tokenizer().apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = tokenizer()(text, add_special_tokens=False)["input_ids"]
    return ids


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
