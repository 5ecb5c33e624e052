"""`batchgen export`: what OpenAI's batch API would have given back, in the types of its package."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import batchgen, begin, write_rows

from batchgen.job.verbs.openai_lines import batch_line

CHAT = [{"role": "user", "content": "Hi"}]
URLS = {
    "chat": ("/v1/chat/completions", {"messages": CHAT, "n": 2}),
    "azure": ("/openai/deployments/m/chat/completions?api-version=1", {"messages": CHAT}),
    "text": ("/v1/completions", {"prompt": "Hi"}),
    "response": (
        "/v1/responses",
        {"input": "Hi", "instructions": "Short.", "max_output_tokens": 4},
    ),
    "bad": ("/v1/embeddings", {"input": "Hi"}),
    "wrong": ("/v1/completions", {"prompt": "Hi", "temperature": 900}),
}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    rows = [
        {"custom_id": name, "method": "POST", "url": url, "body": {"model": "m", **body}}
        for name, (url, body) in URLS.items()
    ]
    path = write_rows(folder / "in.jsonl", rows)
    out = folder / "out.parquet"
    result = batchgen(
        "run", "-i", path, "-o", out, "--engine", "echo", "--ignore-model",
        "--chat-template", TEMPLATE,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    return out


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_good_and_failed_rows_go_to_their_files_in_order(output: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    result = batchgen("export", output, "--format", "openai", "--to", good, "--errors", bad)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert [line["custom_id"] for line in lines_of(good)] == ["chat", "azure", "text", "response"]
    failed = lines_of(bad)
    assert [line["custom_id"] for line in failed] == ["bad", "wrong"]
    assert [line["response"]["body"]["error"]["code"] for line in failed] == [
        "unsupported_url",
        "invalid_param",
    ]
    assert {line["response"]["status_code"] for line in failed} == {400}
    keys = [line["response"]["request_id"] for line in lines_of(good) + failed]
    assert len(set(keys)) == len(URLS)


def test_the_lines_are_of_the_types_of_the_openai_package(output: Path) -> None:
    types = pytest.importorskip("openai.types")
    chat_types = pytest.importorskip("openai.types.chat")
    responses = pytest.importorskip("openai.types.responses")
    result = batchgen("export", output, "--to", "-")
    bodies = [json.loads(line)["response"]["body"] for line in result.stdout.splitlines()]
    chat = chat_types.ChatCompletion.model_validate(bodies[0], strict=True)
    assert [choice.index for choice in chat.choices] == [0, 1]
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    chat_types.ChatCompletion.model_validate(bodies[1], strict=True)
    text = types.Completion.model_validate(bodies[2], strict=True)
    rows = pq.read_table(output).to_pylist()
    assert text.choices[0].text == next(r["completion"] for r in rows if r["id"] == "text")
    response = responses.Response.model_validate(bodies[3])
    assert response.output_text == next(r["completion"] for r in rows if r["id"] == "response")
    assert response.status == "incomplete"


def test_a_running_job_is_followed_in_order(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"prompt {i}"} for i in range(40)]
    path, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    command = ["run", "-i", path, "-o", out, "--engine", "echo", "-q", "--checkpoint-every", "5"]
    fault = "slow:at=engine.step,seconds=0.02,rows=2"
    with begin(*command, fault=fault, heard=False) as job:
        while not (tmp_path / "out.parquet.ckpt" / "manifest.json").exists():
            assert job.poll() is None
        result = batchgen("export", out, "--to", tmp_path / "a.jsonl", "--follow")
        assert job.wait(60) == 0
    assert result.returncode == 0, result.stderr
    assert [line["custom_id"] for line in lines_of(tmp_path / "a.jsonl")] == [
        row["id"] for row in rows
    ]


def test_json_lines_and_csv_have_every_column(output: Path, tmp_path: Path) -> None:
    table = pq.read_table(output)
    assert batchgen("export", output, "--format", "jsonl", "--to", tmp_path / "a").returncode == 0
    assert [list(line) for line in lines_of(tmp_path / "a")] == [table.column_names] * 7
    assert batchgen("export", output, "--format", "csv", "--to", tmp_path / "b").returncode == 0
    with (tmp_path / "b").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["id"] for row in read] == table["id"].to_pylist()
    assert batchgen("export", output, "--to", output).returncode == 73


@pytest.mark.parametrize("kind", ["openai", "jsonl", "csv"])
@pytest.mark.parametrize(("ending", "codec"), [("gz", "gzip"), ("zst", "zstd")])
def test_a_file_is_compressed_as_its_name_says(
    output: Path, tmp_path: Path, kind: str, ending: str, codec: str
) -> None:
    plain, packed = tmp_path / "rows", tmp_path / f"rows.{ending}"
    for path in (plain, packed):
        done = batchgen("export", output, "--format", kind, "--to", path)
        assert done.returncode == 0, done.stderr
    with pa.input_stream(str(packed), compression=codec) as stream:
        assert stream.read() == plain.read_bytes()


@pytest.mark.parametrize("given", [("export", "--to"), ("report", "--to"), ("export", "--errors")])
def test_what_an_output_was_made_of_is_not_written_over(
    output: Path, tmp_path: Path, given: tuple[str, str]
) -> None:
    source = output.parent / "in.jsonl"
    before = source.read_bytes()
    command, flag = given
    more = ("--to", tmp_path / "rows.jsonl") if flag == "--errors" else ()
    done = batchgen(command, output, flag, source, *more)
    assert done.returncode == 73, done.stderr
    assert "is an input" in done.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/v1/chat/completions", ("completion_tokens_details", "reasoning_tokens")),
        ("/v1/responses", ("output_tokens_details", "reasoning_tokens")),
    ],
)
def test_tokens_of_thinking_are_those_of_the_rows(url: str, path: tuple[str, str]) -> None:
    row = {
        "index": 0, "sample": 0, "id": "a", "status": "ok", "completion": "Yes", "reasoning": "hm",
        "reasoning_tokens": 7, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 12,
        "cached_tokens": 0, "finished_at": None, "run_id": "r", "url": url,
    }  # fmt: skip
    usage = batch_line([row], "m")["response"]["body"]["usage"]
    assert usage[path[0]] == {path[1]: 7}
    usage = batch_line([row | {"reasoning_tokens": None}], "m")["response"]["body"]["usage"]
    assert usage[path[0]] == {path[1]: 0}


CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
SAID: dict[str, Any] = {
    "index": 3, "sample": 0, "id": "a", "status": "ok", "completion": "Yes", "reasoning": "hm",
    "reasoning_tokens": 7, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 12,
    "cached_tokens": 2, "finished_at": None, "run_id": "r", "tool_calls": json.dumps([CALL]),
    "logprobs": [-0.5], "token_texts": ["Yes"],
    "top_logprobs": [[{"token": "Yes", "id": 5, "logprob": -0.5}]],
}  # fmt: skip


@pytest.mark.parametrize("changed", [{}, {"tool_calls": None}, {"finish_reason": "length"}])
@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_body_comes_back_from_the_openai_package_as_it_went_in(
    url: str, changed: dict[str, Any]
) -> None:
    chat = pytest.importorskip("openai.types.chat").ChatCompletion
    text = pytest.importorskip("openai.types").Completion
    response = pytest.importorskip("openai.types.responses").Response
    line = batch_line([SAID | {"url": url} | changed], "m")
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    body = line["response"]["body"]
    kind = {"chat": chat, "completions": text, "responses": response}[url.split("/")[2]]
    assert kind.model_validate(body).to_dict() == body
    assert json.loads(json.dumps(body)) == body
