"""`--score`, `prompt_logprobs` and OpenAI's `echo`: a text's own log-probabilities, as columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from builtin_oracle import answers, chat_ids, log_probabilities, tokenizer
from click.testing import CliRunner
from echo_runs import write_rows

from batchgen.cli.main import cli
from batchgen.engine.request import SamplingParams
from batchgen.errors import ErrorCode, RowError, UsageError
from batchgen.job.fields.params import apply, merge, read_params, scoring

TEXT = "The small fox reads a long letter about rain and then walks home to its friends"
CHAT = [{"role": "user", "content": "Say hello"}]
SCORED = {"max_tokens": 0, "prompt_logprobs": 0}
MIXED: list[dict[str, Any]] = [
    {"id": "plain", "prompt": TEXT, "max_tokens": 5},
    {"id": "scored", "prompt": TEXT, **SCORED},
    {"id": "shared", "prompt": TEXT + ". And a bird sings", **SCORED},
    {"id": "both", "prompt": TEXT + ". Then", "prompt_logprobs": 2, "max_tokens": 4},
    {"id": "chat", "messages": CHAT, **SCORED},
    {"id": "one", "prompt_token_ids": [9], **SCORED},
    {"id": "two", "prompt": TEXT, "n": 2, "prompt_logprobs": 1, "temperature": 1, "max_tokens": 3},
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in answers(tmp_path_factory.mktemp("score"), MIXED, save_token_ids=True):
        found.setdefault(row["id"], []).append(row)
    return found


def ids_of(row: dict[str, Any]) -> list[int]:
    if "messages" in row:
        return chat_ids(row["messages"])
    ids: list[int] = row.get("prompt_token_ids") or tokenizer()(row["prompt"])["input_ids"]
    return ids


def test_prompt_logprobs_are_log_softmax_of_the_models_logits(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    assert rows["plain"][0]["prompt_logprobs"] is None
    for given in MIXED[1:]:
        ids = ids_of(given)
        logits = log_probabilities(ids)
        expected = logits[:-1].gather(1, torch.tensor(ids[1:], dtype=torch.int64)[:, None])[:, 0]
        for row in rows[given["id"]]:
            first, *values = row["prompt_logprobs"]
            assert first is None
            assert torch.allclose(torch.tensor(values), expected, atol=3e-5)
            assert row["prompt_logprob_sum"] == pytest.approx(sum(values))
            assert row["prompt_tokens"] == len(row["prompt_token_texts"]) == len(ids)
            for top, place in zip((row["prompt_top_logprobs"] or [])[1:], logits, strict=False):
                best = place.topk(given["prompt_logprobs"]).indices.tolist()
                assert [one["token_id"] for one in top] == best


def test_a_scored_row_generates_nothing_and_others_what_they_did(
    rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    for name in ("scored", "shared", "chat", "one"):
        (row,) = rows[name]
        assert (row["completion"], row["completion_tokens"], row["finish_reason"]) == (
            "",
            0,
            "stop",
        )
    alone = answers(tmp_path, [{**MIXED[0]}], save_token_ids=True, block_size=4)  # no kernel has it
    assert alone[0]["token_ids"] == rows["plain"][0]["token_ids"]
    without = {k: v for k, v in MIXED[6].items() if k != "prompt_logprobs"}
    alone = answers(tmp_path, [without], "n", save_token_ids=True)
    assert [r["token_ids"] for r in alone] == [r["token_ids"] for r in rows["two"]]


def test_score_takes_a_file_of_texts_and_ignores_what_is_for_output(tmp_path: Path) -> None:
    source = write_rows(
        tmp_path / "in.jsonl", [{"prompt": "abc", "max_tokens": 9}, {"prompt": "d"}]
    )
    out = tmp_path / "out.parquet"
    result = CliRunner().invoke(
        cli, ["run", "-i", str(source), "-o", str(out), "--engine", "echo", "--score", "-q"]
    )
    assert result.exit_code == 0, result.output
    read = pq.read_table(out).to_pylist()
    assert [row["prompt_logprobs"] for row in read] == [[None, 0.0, 0.0], [None]]
    assert [row["completion_tokens"] for row in read] == [0, 0]
    fingerprint = json.loads(pq.read_metadata(out).metadata[b"batchgen.manifest"])["fingerprint"]
    assert fingerprint["sampling.prompt_logprobs"] == fingerprint["sampling.max_tokens"] == 0


def test_score_beside_flags_of_the_output_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-tokens"):
        scoring({"max_tokens": 5})
    base = merge({}, scoring({"top_logprobs": 2}), {})
    assert (base.max_tokens, base.prompt_logprobs) == (0, 2)
    assert apply(base, {"max_tokens": 7, "n": 3}) == base


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"max_tokens": 0}, ErrorCode.INVALID_PARAM),
        ({"max_tokens": 0, "logprobs": 1}, ErrorCode.INVALID_PARAM),
        ({"max_tokens": 0, "prompt_logprobs": 0, "n": 2}, ErrorCode.INVALID_PARAM),
        ({"prompt_logprobs": 21}, ErrorCode.INVALID_PARAM),
        ({"echo": True}, ErrorCode.UNSUPPORTED_SETTING),
        ({"echo": True, "logprobs": 1, "max_tokens": 4}, ErrorCode.UNSUPPORTED_SETTING),
        ({"echo": "yes"}, ErrorCode.INVALID_PARAM),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(given: dict[str, Any], code: ErrorCode) -> None:
    with pytest.raises(RowError) as caught:
        read_params(given)
    assert caught.value.code is code


def test_neutral_values_ask_for_nothing() -> None:
    assert read_params({"echo": False, "prompt_logprobs": None}) == {}
    assert read_params({"prompt_logprobs": False}) == {"prompt_logprobs": None}
    assert SamplingParams().prompt_logprobs is None


def test_echo_of_a_completions_row_comes_back_in_openais_shape(tmp_path: Path) -> None:
    types = pytest.importorskip("openai.types")
    body = {"model": "m", "prompt": "héy", "echo": True, "logprobs": 1, "max_tokens": 0}
    row = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    answers(tmp_path, [row], engine="echo", dtype="auto", input={"ignore_model": True})
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "out.parquet"), "--to", "-"])
    body = json.loads(result.output)["response"]["body"]
    logprobs = body["choices"][0]["logprobs"]
    assert body["choices"][0]["text"] == "héy"
    assert logprobs["tokens"] == ["h", "bytes:\\xc3", "bytes:\\xa9", "y"]
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert logprobs["token_logprobs"] == [None, 0.0, 0.0, 0.0]  # the first has none, as OpenAI says
    assert logprobs["top_logprobs"][3] == {"y": 0.0}
    assert body["usage"]["completion_tokens"] == 0
    del logprobs["token_logprobs"][0]
    types.Completion.model_validate(body, strict=True)
