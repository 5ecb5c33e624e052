"""However a prompt is made, it has exactly one BOS where the tokenizer adds one; ids stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from echo_runs import write_rows
from tokenizer_folders import WITH_BOS, make

from batchgen.job.ahead.opening import opened
from batchgen.job.model.files import ModelFiles, resolve_model
from batchgen.job.spec import InputSpec, JobSpec

BOS = 1
BARE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
TWICE = "{{ bos_token }}" + WITH_BOS
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
QUESTIONS = [{"name": "a", "question": "Which?", "choices": ["yes", "no"]}]
WAYS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (
        {},
        [
            {"prompt": "Hello"},
            {"prompt": "<s>Hello"},
            {"prompt": "<s><s>Hello"},
            {"prompt": ""},
            {"prompt": "Hello", "choices": ["yes", "no"]},
            {"prompt": "<s>Hello", "choices": ["yes", "no"]},
            CHAT | {"choices": ["yes", "no"]},
            {"prompt": "Hello", "questions": QUESTIONS},
            CHAT | {"questions": QUESTIONS},
            {"prompt": "<s>Hello", "max_tokens": 0, "prompt_logprobs": 0},
        ],
    ),
    ({"as_chat": True, "system": "Be brief."}, [{"prompt": "Hello"}, CHAT]),
    ({"template": "{{ word }}"}, [{"word": "Hello"}, {"word": "<s>Hello"}]),
    ({"template": "{{ word }}", "as_chat": True}, [{"word": "Hello"}]),
    ({"overlong": "truncate-left"}, [{"prompt": "Hello " * 60}]),
]
"""Settings of a job, and its rows."""


@pytest.fixture(scope="module", params=["llama3", "llama_class"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return resolve_model(str(make(tmp_path_factory.mktemp("bos") / "m", request.param)))


def prompts(
    tmp_path: Path, files: ModelFiles, rows: list[dict[str, Any]], chat: str, **settings: Any
) -> list[list[int]]:
    source = write_rows(tmp_path / "in.jsonl", rows)
    spec = JobSpec(
        InputSpec((str(source),), **settings), Path("-"), chat_template=chat, max_model_len=40
    )
    with opened(spec, files) as job:
        ready, failed = job.prepare(list(job.reader))
    assert not failed, failed[0].error
    ready.sort(key=lambda row: row.row.index)
    return [list(one.prompt_token_ids) for row in ready for one in row.requests]


def test_every_prompt_has_exactly_one_bos(tmp_path: Path, files: ModelFiles) -> None:
    for number, (settings, rows) in enumerate(WAYS):
        chat = (BARE, WITH_BOS, TWICE)[number % 3]
        for ids in prompts(tmp_path, files, rows, chat, **settings):
            assert (ids[0], ids.count(BOS)) == (BOS, 1), (settings, ids)


@pytest.mark.parametrize("chat", [BARE, TWICE], ids=["bare", "twice"])
def test_a_chat_has_one_whatever_its_template_writes(
    tmp_path: Path, files: ModelFiles, chat: str
) -> None:
    (ids,) = prompts(tmp_path, files, [CHAT], chat)
    assert (ids[0], ids.count(BOS)) == (BOS, 1)


def test_ids_stay_as_they_are(tmp_path: Path, files: ModelFiles) -> None:
    given = [[7, 8], [BOS, 7, 8], [BOS, BOS, 7]]
    rows = [{"prompt_token_ids": ids} for ids in given]
    assert prompts(tmp_path, files, rows, WITH_BOS) == given


def test_a_tokenizer_that_adds_none_adds_none(tmp_path: Path) -> None:
    files = resolve_model(str(make(tmp_path / "m", "gpt2")))
    given = [{"prompt": "Hello"}, CHAT, {"prompt": "<s><s>Hello"}]
    plain, chat, twice = prompts(tmp_path, files, given, BARE)
    assert BOS not in plain + chat
    assert twice[:2] == [BOS, BOS]


def test_where_the_tokenizer_adds_none_a_chat_begins_as_it_is_written(tmp_path: Path) -> None:
    files = resolve_model(str(make(tmp_path / "m", "gpt2")))
    for number, chat in enumerate((BARE, WITH_BOS, TWICE)):
        (ids,) = prompts(tmp_path, files, [CHAT], chat)
        assert ids[:3].count(BOS) == ids.count(BOS) == number
