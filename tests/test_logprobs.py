"""Log-probabilities of completions: the model's own, in columns that every reader loads, and in
OpenAI's shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builtin_oracle import answers, log_probabilities, tokenizer
from click.testing import CliRunner

from batchgen.cli.main import cli
from batchgen.job.fields.params import read_params
from batchgen.job.text.token_texts import byte_level_bytes, bytes_of, piece_bytes, shown_bytes

TEXT = "The small fox reads a letter"
ROWS: list[dict[str, Any]] = [
    {"id": "plain", "prompt": TEXT},
    {"id": "top", "prompt": TEXT + " and", "logprobs": 3, "temperature": 1.0, "seed": 3},
    {"id": "chosen", "prompt": "Rain, and", "logprobs": 0, "logit_bias": {"40": 3}},
    {"id": "openai", "prompt": "A bird.", "logprobs": True, "top_logprobs": 2},
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logprobs")
    answers(folder, ROWS, save_token_ids=True, sampling={"max_tokens": 12})
    return folder / "out.parquet"


def test_top_logprobs_are_log_softmax_of_the_models_logits(output: Path) -> None:
    rows = {row["id"]: row for row in pq.read_table(output).to_pylist()}
    assert rows["plain"]["logprobs"] is rows["plain"]["top_logprobs"] is None
    for given, count in zip(ROWS[1:], (3, 0, 2), strict=True):
        row = rows[given["id"]]
        prompt = tokenizer()(given["prompt"])["input_ids"]
        expected = log_probabilities(prompt + row["token_ids"])[len(prompt) - 1 : -1]
        chosen = expected.gather(1, torch.tensor(row["token_ids"])[:, None])[:, 0]
        assert torch.allclose(torch.tensor(row["logprobs"]), chosen, atol=2e-5)
        assert [len(top) for top in row["top_logprobs"] or []] == [count] * bool(count) * len(
            row["token_ids"]
        )
        for top, place in zip(row["top_logprobs"] or [], expected, strict=False):
            values, ids = place.topk(count)
            assert [one["token_id"] for one in top] == ids.tolist()
            found = torch.tensor([one["logprob"] for one in top])
            assert torch.allclose(found, values, atol=2e-5)
            assert [one["token"] for one in top] == [tokenizer().decode([i]) for i in ids.tolist()]


def test_token_texts_are_the_completion_in_pieces(output: Path) -> None:
    for row in pq.read_table(output).to_pylist()[1:]:
        ended = row["finish_reason"] == "stop"
        texts = row["token_texts"][: len(row["token_texts"]) - ended]
        assert b"".join(map(bytes_of, texts)).decode() == row["completion"]


def test_a_row_that_asks_brings_the_column_and_a_flag_brings_it_for_all(tmp_path: Path) -> None:
    echo: dict[str, Any] = {"engine": "echo", "dtype": "auto"}
    none = answers(tmp_path, [{"prompt": "a"}], "none", **echo)
    assert "logprobs" not in none[0]
    late = [{"prompt": "a"}] * 3 + [{"prompt": "ab", "logprobs": 1}]
    rows = answers(tmp_path, late, "late", checkpoint_every=1, **echo)
    assert [row["logprobs"] for row in rows] == [None, None, None, [0.0, 0.0]]
    assert list(rows[0])[-3:] == ["logprobs", "token_texts", "top_logprobs"]
    given = {"sampling": {"top_logprobs": 2}}
    rows = answers(tmp_path, [{"prompt": "a"}, {"prompt": "b", "logprobs": False}], **given, **echo)
    assert rows[0]["top_logprobs"] == [[{"token_id": 97, "token": "a", "logprob": 0.0}]]
    assert rows[1]["top_logprobs"] is rows[1]["logprobs"] is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_columns_load_in_datasets_pandas_and_duckdb(output: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.Dataset.from_parquet(str(output), cache_dir=str(tmp_path))
    top = loaded[1]["top_logprobs"][0]
    assert [set(one) for one in top] == [{"token_id", "token", "logprob"}] * 3
    assert pd.read_parquet(output)["top_logprobs"][1][0][0]["token"] == top[0]["token"]
    query = f"select top_logprobs[1][1].logprob from '{output}' where id = 'top'"
    assert duckdb.sql(query).fetchall()[0][0] == pytest.approx(top[0]["logprob"])
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(output)["top_logprobs"][1][0][0]["token"] == top[0]["token"]
    assert pa.types.is_struct(
        pq.read_schema(output).field("top_logprobs").type.value_type.value_type
    )


def test_one_number_serves_the_names_of_openai_and_vllm() -> None:
    for given, count in (
        ({"logprobs": 3}, 3), ({"logprobs": True, "top_logprobs": 3}, 3), ({"top_logprobs": 2}, 2),
        ({"logprobs": True}, 0), ({"logprobs": 0}, 0),
    ):  # fmt: skip
        assert read_params(given) == {"logprobs": count, "top_logprobs": count}
    assert read_params({"logprobs": False}) == {"logprobs": None, "top_logprobs": 0}
    assert read_params({"logprobs": None}) == {}


@pytest.mark.parametrize("content", ["é".encode(), b"\xf0\x9f", b"\xff", b"", "日本".encode()])
def test_a_tokens_bytes_can_be_read_from_its_text(content: bytes) -> None:
    assert bytes_of(shown_bytes(content)) == content


def test_pieces_of_both_kinds_of_vocabulary_have_their_bytes() -> None:
    assert byte_level_bytes("Ġcafé") == b" caf\xe9"
    assert byte_level_bytes("Ċ") == b"\n"
    assert piece_bytes("▁a▁") == b" a "
    assert piece_bytes("<0xF0>") == b"\xf0"


BODIES = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Hé"}], "logprobs": True, "top_logprobs": 2,
    },
    "/v1/completions": {"prompt": "Hé", "logprobs": 1},
    "/v1/responses": {"input": "Hé", "include": ["message.output_text.logprobs"]},
}  # fmt: skip


def test_export_writes_logprobs_in_openais_shapes(tmp_path: Path) -> None:
    types = pytest.importorskip("openai.types")
    chat_types = pytest.importorskip("openai.types.chat")
    responses = pytest.importorskip("openai.types.responses")
    rows = [
        {"custom_id": url, "method": "POST", "url": url, "body": {"model": "m", **body}}
        for url, body in BODIES.items()
    ]
    answers(tmp_path, rows, engine="echo", dtype="auto", input={"ignore_model": True})
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "out.parquet"), "--to", "-"])
    bodies = [json.loads(line)["response"]["body"] for line in result.output.splitlines()]
    chat = chat_types.ChatCompletion.model_validate(bodies[0], strict=True).choices[0]
    assert chat.logprobs is not None
    content = chat.logprobs.content or []
    assert bytes(b for token in content for b in token.bytes or []).decode() == chat.message.content
    assert [token.token for token in content if len(token.token) > 1] == ["\\xc3", "\\xa9"]
    assert [top.token for top in content[0].top_logprobs] == [content[0].token]
    text = types.Completion.model_validate(bodies[1], strict=True).choices[0].logprobs
    assert text.tokens == ["H", "bytes:\\xc3", "bytes:\\xa9"]
    assert text.top_logprobs[0] == {"H": 0.0}
    assert len(text.text_offset) == len(text.token_logprobs) == 3
    item = responses.Response.model_validate(bodies[2], strict=True).output[0].content[0]
    assert [token.logprob for token in item.logprobs][:2] == [0.0, 0.0]
