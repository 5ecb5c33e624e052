"""`--overlong`: what becomes of prompts that do not fit, and what exactly is cut of them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from echo_runs import write_rows
from tokenizer_folders import make

from batchgen.cli.run import run
from batchgen.cli.validate import validate
from batchgen.engine.request import Question, Request, SamplingParams
from batchgen.errors import FingerprintMismatchError, RowError
from batchgen.job.model.files import resolve_model
from batchgen.job.rows import InputRow
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.overlong import OverlongPolicy
from batchgen.job.text.prepared import PreparedRow
from batchgen.job.text.requests import Requests
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.tokenizer import load_codec

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
ROWS: list[dict[str, Any]] = [
    {"prompt": "short"},
    {"prompt": "0123456789" * 3},
    {"prompt": "0123456789" * 3, "max_tokens": 2},
    {"prompt_token_ids": list(range(65, 95))},
]


def generate(tmp_path: Path, policy: str, rows: list[dict[str, Any]], *more: str) -> Result:
    source = write_rows(tmp_path / "in.jsonl", rows)
    args = ["-i", str(source), "-o", str(tmp_path / "o.parquet"), "--engine", "echo", *more]
    given = ["--max-model-len", "20", "--overlong", policy, "--summary", str(tmp_path / "s.json")]
    return CliRunner().invoke(run, [*args, *given])


def column(tmp_path: Path, name: str) -> list[Any]:
    values: list[Any] = pq.read_table(tmp_path / "o.parquet")[name].to_pylist()
    return values


def summary(tmp_path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((tmp_path / "s.json").read_text())
    return loaded


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("truncate-left", ["short", "0123456789", "23456789" + "0123456789", "UVWXYZ[\\]^"]),
        ("truncate-right", ["short", "0123456789", "0123456789" + "01234567", "ABCDEFGHIJ"]),
    ],
)
def test_cutting_leaves_room_for_the_completion(
    tmp_path: Path, policy: str, said: list[str]
) -> None:
    assert generate(tmp_path, policy, ROWS).exit_code == 0
    lengths = [5, 10, 18, 10]
    assert column(tmp_path, "prompt_tokens") == lengths
    assert [text[:2] for text in column(tmp_path, "completion")] == [text[:2] for text in said]
    assert column(tmp_path, "prompt")[1] == ROWS[1]["prompt"]
    assert (summary(tmp_path)["truncated"], summary(tmp_path)["errors"]) == (3, 0)


def test_skipped_rows_are_no_failures_and_by_default_they_are(tmp_path: Path) -> None:
    assert generate(tmp_path, "skip", ROWS[:2]).exit_code == 0
    assert column(tmp_path, "status") == ["ok", "skipped"]
    assert column(tmp_path, "error_code") == [None, None]
    assert "30 tokens" in column(tmp_path, "error_message")[1]
    assert (summary(tmp_path)["skipped"], summary(tmp_path)["ok"]) == (1, 1)
    changed = generate(tmp_path, "error", ROWS[:2])
    assert isinstance(changed.exception, FingerprintMismatchError)
    assert generate(tmp_path, "error", ROWS[:2], "--overwrite").exit_code == 3
    assert column(tmp_path, "error_code") == [None, "prompt_too_long"]


def test_a_row_s_truncate_prompt_tokens_keeps_its_last_ones(tmp_path: Path) -> None:
    ids = {"prompt_token_ids": [65, 66, 67], "truncate_prompt_tokens": 2}
    rows: list[dict[str, Any]] = [
        {"prompt": "abcdef", "truncate_prompt_tokens": 3},
        {"prompt": "abcdef", "params": {"truncate_prompt_tokens": 9}},
        {"prompt": "0123456789" * 3, "truncate_prompt_tokens": -1},
        {"prompt": "abc", "truncate_prompt_tokens": 0},
        ids,
    ]
    assert generate(tmp_path, "error", rows).exit_code == 3
    assert column(tmp_path, "completion")[:2] == ["def", "abcdef"]
    assert column(tmp_path, "prompt_tokens") == [3, 6, 10, None, 2]
    assert column(tmp_path, "error_code")[3] == "invalid_param"


@pytest.mark.parametrize(
    ("policy", "code", "counts"),
    [("error", 65, (1, 3, 0, 0)), ("truncate-left", 0, (4, 0, 0, 3)), ("skip", 0, (1, 0, 3, 0))],
)
def test_validate_agrees(
    tmp_path: Path, policy: str, code: int, counts: tuple[int, int, int, int]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}, *ROWS[1:]])
    model = make(tmp_path / "m", "gpt2")
    rows = ["-i", str(source), "--model", str(model), "--max-model-len", "3", "--json"]
    listed = CliRunner().invoke(validate, [*rows, "--overlong", policy])
    found = json.loads(listed.stdout.splitlines()[-1])
    assert listed.exit_code == code
    names = ("good", "bad", "skipped", "truncated")
    assert tuple(found[name] for name in names) == counts


def prepared(codec: TextCodec, policy: str, limit: int, row: InputRow) -> tuple[str, list[int]]:
    requests = Requests(codec, overlong=OverlongPolicy(policy, limit))
    ready, failed = requests.prepare([row])
    requests.close()
    if failed:
        raise failed[0].error
    return ready[0].prompt or "", list(ready[0].requests[0].prompt_token_ids)


def chat(*turns: tuple[str, Any], **more: Any) -> InputRow:
    messages = [{"role": role, "content": content} for role, content in turns]
    return InputRow(0, "in.jsonl:1", messages=messages, **more)


TURNS = (("system", "S" * 40), ("user", "0123456789" * 9), ("assistant", "A" * 20), ("user", "U"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_chat_is_cut_in_its_longest_message_and_stays_a_chat(side: str) -> None:
    codec = ByteCodec(ChatTemplate(CHAT, {}))
    start, answer = f"<system>{'S' * 40}</><user>", f"</><assistant>{'A' * 20}</><user>U</>"
    whole = len(start + TURNS[1][1] + answer + "<assistant>")

    def cut(limit: int, **more: Any) -> str:
        row = chat(*TURNS, params=SamplingParams(max_tokens=10), **more)
        return prepared(codec, f"truncate-{side}", limit, row)[0]

    assert cut(whole + 1) == start + TURNS[1][1] + answer + "<assistant>"
    kept = TURNS[1][1][10:] if side == "left" else TURNS[1][1][:-10]
    assert cut(whole) == start + kept + answer + "<assistant>"
    short = cut(whole - 85)  # the user's text comes down to the answer's length, then both are cut
    assert short.startswith(start)
    assert short.endswith("</><user>U</><assistant>")
    assert len(short) == whole - 95


def test_what_may_not_be_cut_makes_the_row_an_error() -> None:
    codec = ByteCodec(ChatTemplate(CHAT, {}))
    with pytest.raises(RowError, match="cannot be cut to 25 tokens") as raised:
        prepared(codec, "truncate-left", 50, chat(("system", "S" * 90), ("user", "x" * 50)))
    assert raised.value.code == "prompt_too_long"


def test_bos_stays_and_no_character_is_broken(tmp_path: Path) -> None:
    codec = load_codec(resolve_model(str(make(tmp_path / "m", "llama3"))))
    bos = codec.bos_token_id
    plain = InputRow(0, "f:1", prompt="日本語 " * 40)
    _, ids = prepared(codec, "truncate-left", 20, plain)
    assert (ids[0], len(ids)) == (bos, 10)
    for side in ("left", "right"):
        text, ids = prepared(codec, f"truncate-{side}", 40, chat(("user", "日本語 " * 40)))
        assert ids[0] == bos
        assert len(ids) <= 20
        assert "\ufffd" not in text


def decided(codec: TextCodec, policy: str, limit: int, row: InputRow) -> PreparedRow:
    """Every request fits: with its labels it has a token less than prompt and output may."""
    with closing(Requests(codec, overlong=OverlongPolicy(policy, limit))) as requests:
        ready, failed = requests.prepare([row])
    if failed:
        raise failed[0].error
    assert all(len(request.prompt_token_ids) < limit for request in ready[0].requests)
    return ready[0]


def text_of(request: Request) -> str:
    return bytes(list(request.prompt_token_ids)).decode()


LABELS = SamplingParams(choices=("yes", "perhaps"))
ASKED = SamplingParams(
    choices=("a", "b"), questions=(Question("one", "Is it?"), Question("two", "Is it long?"))
)


@pytest.mark.parametrize(
    ("side", "kept"), [("left", "0123456789"), ("right", "abcdefghij")], ids=("left", "right")
)
def test_a_row_that_decides_is_cut_so_far_that_its_longest_label_fits(side: str, kept: str) -> None:
    text = "abcdefghij" + "-" * 40 + "0123456789"
    rows = [InputRow(0, "f:1", prompt=text), InputRow(0, "f:1", prompt_token_ids=[*text.encode()])]
    for row in rows:
        found = decided(ByteCodec(), f"truncate-{side}", 30, replace(row, params=LABELS))
        longest = max(found.requests, key=lambda one: len(one.prompt_token_ids))
        assert len(longest.prompt_token_ids) == 29  # "perhap", whose next token is scored
        assert text_of(longest).removesuffix("perhap") == (
            text[-23:] if side == "left" else text[:23]
        )
        assert kept in text_of(longest)
        assert found.num_prompt_tokens == 23
        assert found.prompt == row.prompt


def test_what_fits_is_not_cut() -> None:
    row = InputRow(0, "f:1", prompt="x" * 23, params=LABELS)
    requests = Requests(ByteCodec(), overlong=OverlongPolicy("truncate-left", 30))
    assert requests.prepare([row])[0][0].num_prompt_tokens == 23
    assert requests.num_cut == 0
    requests.prepare([replace(row, prompt="x" * 24)])
    assert requests.num_cut == 1


def test_questions_come_after_what_is_cut_and_share_one_text() -> None:
    row = InputRow(0, "f:1", prompt="D" * 90, params=ASKED)
    found = [text_of(one) for one in decided(ByteCodec(), "truncate-right", 40, row).requests]
    assert found == ["D" * 26 + "\n\nIs it?", "D" * 26 + "\n\nIs it long?"]
    asked = replace(chat(("system", "S"), ("user", "u" * 90)), params=ASKED)
    codec = ByteCodec(ChatTemplate(CHAT, {}))
    texts = [text_of(one) for one in decided(codec, "truncate-left", 80, asked).requests]
    assert [text.count("u<") + text.count("\n\nIs it") for text in texts] == [1, 1]
    assert len({text.split("\n\n")[0] for text in texts}) == 1
    assert texts[1].startswith("<system>S</><user>uuu")


def test_a_row_whose_labels_leave_no_room_is_too_long() -> None:
    for row in (InputRow(0, "f:1", prompt="x" * 30), chat(("user", "x" * 30))):
        with pytest.raises(RowError, match="labels fit") as raised:
            decided(
                ByteCodec(ChatTemplate(CHAT, {})),
                "truncate-left",
                20,
                replace(row, params=SamplingParams(choices=("y" * 20, "z" * 25))),
            )
        assert raised.value.code == "prompt_too_long"


def test_rows_with_choices_are_cut_skipped_or_errors_by_the_flag(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "0123456789" * 3, "choices": ["yes", "no"]}]
    assert generate(tmp_path, "truncate-left", rows).exit_code == 0
    assert column(tmp_path, "choice") == ["yes"]
    assert column(tmp_path, "prompt_tokens") == [17]
    assert summary(tmp_path)["truncated"] == 1
    assert generate(tmp_path, "skip", rows, "--overwrite").exit_code == 0
    assert column(tmp_path, "status") == ["skipped"]
    assert generate(tmp_path, "error", rows, "--overwrite").exit_code == 3
    assert column(tmp_path, "error_code") == ["prompt_too_long"]
