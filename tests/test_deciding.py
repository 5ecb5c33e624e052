"""Rows that are decided together get the tokens that each gets alone, whoever is among them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizer_folders import CHATML, make

from batchgen.engine.request import Question, SamplingParams
from batchgen.errors import RowError
from batchgen.job.model.files import resolve_model
from batchgen.job.rows import InputRow
from batchgen.job.templates.chat_template import Chat
from batchgen.job.text import deciding
from batchgen.job.text.prepared import PreparedRow
from batchgen.job.text.requests import Requests
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import load_codec

YES_NO = SamplingParams(choices=("yes", "no", "yes, but"))
ASKED = SamplingParams(choices=("a", "bc"), questions=(Question("x", "Which?"), Question("y", "")))
CHAT_TEXT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def row(index: int, params: SamplingParams = YES_NO, **content: Any) -> InputRow:
    return InputRow(index, f"rows:{index}", params=params, **content)


def chat(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


ROWS = [
    row(0, prompt="hello "),
    row(1, messages=chat("hello")),
    row(2, prompt=CHAT_TEXT),  # the text of that chat, but a raw prompt
    row(3, prompt_token_ids=[5, 6, 7]),
    row(4, ASKED, messages=chat("hello " * 30)),
    row(5, ASKED, prompt="hello " * 30),
    row(6, prompt=""),
    row(7, messages=[]),
    row(8, replace(YES_NO, choices=("no", "maybe")), messages=chat("hello")),
]
SURROGATE = row(9, prompt="a\ud800b")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    folder = make(tmp_path_factory.mktemp("m") / "llama3", "llama3")
    return load_codec(resolve_model(str(folder)), chat_template=CHATML)


def made(codec: TextCodec, rows: list[InputRow]) -> dict[int, Any]:
    """By row, the token ids and targets of its requests, or why it failed."""
    requests = Requests(codec, eos_token_ids=[2])
    ready, failed = requests.prepare(rows)
    requests.close()
    found: dict[int, Any] = {one.row.index: shown(one) for one in ready}
    return found | {one.row.index: (one.error.code, one.error.message) for one in failed}


def shown(prepared: PreparedRow) -> Any:
    asked = [(list(r.prompt_token_ids), r.targets, r.params) for r in prepared.requests]
    return prepared.prompt, list(prepared.prompt_token_ids), asked, prepared.decisions


@pytest.mark.parametrize("characters", [1, 60, deciding._CHARACTERS_AT_ONCE])
@pytest.mark.parametrize("others", [[], [SURROGATE]])
def test_rows_decided_together_are_asked_as_each_alone(
    codec: TextCodec,
    others: list[InputRow],
    characters: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [*ROWS[:3], *others, *ROWS[3:]]
    alone = {index: one for each in rows for index, one in made(codec, [each]).items()}
    monkeypatch.setattr(deciding, "_CHARACTERS_AT_ONCE", characters)
    assert made(codec, rows) == alone
    assert sorted(alone) == [each.index for each in sorted(rows, key=lambda one: one.index)]


def test_a_chunk_of_rows_asks_the_template_and_the_tokenizer_once(
    codec: TextCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("encode_batch", "encode_rendered", "encode_plain"):
        call = getattr(codec, name)
        monkeypatch.setattr(codec, name, lambda t, n=name, c=call: (calls.append(n), c(t))[1])
    render = Requests._texts_of

    def rendered(self: Requests, chats: Sequence[Chat]) -> list[str | RowError]:
        calls.extend(["render"] if chats else [])
        return render(self, chats)

    monkeypatch.setattr(Requests, "_texts_of", rendered)
    assert codec.num_behind == 0
    requests = Requests(codec, eos_token_ids=[2])
    calls.clear()
    rows = [row(i, prompt=f"hello {i} ") for i in range(20)]
    ready, _ = requests.prepare(rows + [row(i, messages=chat(f"hello {i}")) for i in range(20, 40)])
    requests.close()
    assert len(ready) == 40
    assert sorted(calls) == [
        "encode_batch",
        "encode_plain",
        "encode_plain",
        "encode_rendered",
        "render",
    ]


def test_the_tokens_of_rows_that_wait_take_four_bytes_each(codec: TextCodec) -> None:
    requests = Requests(codec, eos_token_ids=[2])
    ready, _ = requests.prepare(ROWS)
    requests.close()
    held = [one.prompt_token_ids for one in ready]
    held += [request.prompt_token_ids for one in ready for request in one.requests]
    assert len(held) > 2 * len(ready)
    assert all(isinstance(ids, array) and ids.itemsize == 4 for ids in held)
