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
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"prompt": "Hello"}, {}),
    "own BOS": ({"prompt": "<s>Hello"}, {}),
    "two of its own": ({"prompt": "<s><s>Hello"}, {}),
    "empty": ({"prompt": ""}, {}),
    "template": ({"word": "Hello"}, {"template": "Say {{ word }}"}),
    "template with BOS": ({"word": "Hello"}, {"template": "<s>Say {{ word }}"}),
    "template as chat": ({"word": "Hi"}, {"template": "Say {{ word }}", "as_chat": True}),
    "as chat": ({"prompt": "Hello"}, {"as_chat": True}),
    "system": ({"prompt": "Hello"}, {"as_chat": True, "system": "Be brief."}),
    "chat": (CHAT, {"system": "Be brief."}),
    "labels": ({"prompt": "Hello", "choices": ["yes", "no"]}, {}),
    "labels of own BOS": ({"prompt": "<s>Hello", "choices": ["yes", "no"]}, {}),
    "labels of a chat": (CHAT | {"choices": ["yes", "no"]}, {}),
    "questions": ({"prompt": "Hello", "questions": QUESTIONS}, {}),
    "questions of a chat": (CHAT | {"questions": QUESTIONS}, {}),
    "scored": ({"prompt": "<s>Hello", "max_tokens": 0, "prompt_logprobs": 0}, {}),
    "cut": ({"prompt": "Hello " * 60}, {"overlong": "truncate-left"}),
}


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
    return [list(one.prompt_token_ids) for row in ready for one in row.requests]


@pytest.mark.parametrize("chat", [BARE, WITH_BOS, TWICE], ids=["bare", "with", "twice"])
def test_every_prompt_has_exactly_one_bos(tmp_path: Path, files: ModelFiles, chat: str) -> None:
    for name, (row, settings) in WAYS.items():
        for ids in prompts(tmp_path, files, [row], chat, **settings):
            assert (ids[0], ids.count(BOS)) == (BOS, 1), name


def test_ids_stay_as_they_are(tmp_path: Path, files: ModelFiles) -> None:
    given = [[7, 8], [BOS, 7, 8], [BOS, BOS, 7]]
    rows = [{"prompt_token_ids": ids} for ids in given]
    assert prompts(tmp_path, files, rows, WITH_BOS) == given


def test_a_tokenizer_that_adds_none_adds_none(tmp_path: Path) -> None:
    files = resolve_model(str(make(tmp_path / "m", "gpt2")))
    for row, settings in ({"prompt": "Hello"}, {}), ({"prompt": "Hello"}, {"as_chat": True}):
        (ids,) = prompts(tmp_path, files, [row], BARE, **settings)
        assert BOS not in ids
    (ids,) = prompts(tmp_path, files, [{"prompt": "<s><s>Hello"}], BARE)
    assert ids[:2] == [BOS, BOS]
