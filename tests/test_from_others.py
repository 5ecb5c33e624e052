"""The page for those who come from other tools: its commands make rows that say the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from batchgen.engine.request import GrammarKind
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

PAGE = Path(__file__).parent.parent / "batchgen" / "docs" / "others.md"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}
USER = [{"role": "user", "content": "Hi"}]
pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="no jq here")


def rows_of(title: str, *given: dict[str, Any], **spec: Any) -> list[InputRow]:
    """What the command below a heading makes of these lines, in the working folder."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {re.escape(title)}\n.*?```bash\n(.*?)```", text, re.DOTALL | re.M)
    assert found is not None
    Path("FILE").write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    subprocess.run(["bash", "-c", found[1]], check=True)
    rows = [*Reader(InputSpec(("rows.jsonl",), **spec))]
    assert [row.error for row in rows] == [None] * len(given)
    return rows


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_anthropic() -> None:
    body = {"model": "m", "max_tokens": 20, "messages": USER}
    plain, full = rows_of(
        "Anthropic",
        {"custom_id": "a", "params": body},
        {
            "custom_id": "b",
            "params": {
                **body,
                "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}],
                "stop_sequences": ["\n"],
                "temperature": 0.5,
                "tools": [TOOL],
                "tool_choice": {"type": "any"},
            },
        },
    )
    assert (plain.id, plain.messages, plain.params.max_tokens) == ("a", USER, 20)
    assert plain.params.stop == ()
    assert full.messages == [{"role": "system", "content": "Be\n\nbrief"}, *USER]
    assert (full.params.stop, full.params.temperature) == (("\n",), 0.5)
    function = {"name": "look", "description": "Looks.", "parameters": SCHEMA}
    assert full.template_kwargs["tools"] == [{"type": "function", "function": function}]
    assert full.params.structured_outputs is not None  # a call is required
    for kind, calls in (("auto", False), ("none", False), ("any", True)):
        (row,) = rows_of(
            "Anthropic",
            {
                "custom_id": "a",
                "params": {**body, "tools": [TOOL], "tool_choice": {"type": kind}},
            },
        )
        assert (row.error, row.params.structured_outputs is not None) == (None, calls)


def test_gemini() -> None:
    contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
    settings = {"temperature": 0.5, "maxOutputTokens": 9, "topP": 0.9, "stopSequences": ["x"]}
    plain, full = rows_of(
        "Gemini",
        {"key": "a", "request": {"contents": contents}},
        {
            "key": "b",
            "request": {
                "contents": contents,
                "systemInstruction": {"parts": [{"text": "Be brief"}]},
                "generationConfig": {**settings, "responseJsonSchema": SCHEMA},
            },
        },
        messages_column="contents",
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert (plain.id, plain.messages) == ("a", parts)
    assert full.messages == [{"role": "system", "content": "Be brief"}, *parts]
    params = full.params
    assert (params.temperature, params.max_tokens, params.top_p, params.stop) == (
        *(0.5, 9, 0.9, ("x",)),
    )
    assert params.structured_outputs is not None
    assert params.structured_outputs.kind is GrammarKind.JSON_SCHEMA


def test_tgi_and_lorax() -> None:
    grammar = {"type": "regex", "value": "a+"}
    settings = {"max_new_tokens": 9, "stop": ["x"], "details": True, "return_full_text": False}
    bare, drawn, held = rows_of(
        "TGI and LoRAX",
        {"inputs": "Hi"},
        {"inputs": "Hi", "parameters": {**settings, "do_sample": True, "top_p": 0.9}},
        {"inputs": "Hi", "parameters": {"grammar": grammar, "truncate": 7, "temperature": 0.3}},
    )
    assert (bare.prompt, bare.params.temperature) == ("Hi", 0)
    params = drawn.params
    assert (params.max_tokens, params.stop, params.temperature, params.top_p) == (
        *(9, ("x",), 1, 0.9),
    )
    assert held.params.structured_outputs is not None
    assert held.params.structured_outputs.kind is GrammarKind.REGEX
    assert (held.truncate_prompt_tokens, held.params.temperature) == (7, 0.3)


def test_sglang() -> None:
    settings = {"max_new_tokens": 9, "temperature": 0}
    scored, plain = rows_of(
        "SGLang",
        {
            "text": "Hi",
            "sampling_params": settings,
            "return_logprob": True,
            "top_logprobs_num": 3,
            "logprob_start_len": 0,
        },
        {"text": "Hi", "sampling_params": settings},
        prompt_column="text",
    )
    assert (scored.prompt, scored.params.max_tokens, scored.params.top_logprobs) == ("Hi", 9, 3)
    assert plain.params.logprobs is None


def test_tensorrt_llm() -> None:
    text, ids = rows_of(
        "TensorRT-LLM",
        {"task_id": 0, "prompt": "Hi", "output_tokens": 9},
        {"task_id": 1, "input_ids": [1, 2], "output_tokens": 9},
    )
    assert (text.id, text.prompt, text.params.max_tokens) == ("0", "Hi", 9)
    assert (ids.prompt_token_ids, ids.params.ignore_eos) == ([1, 2], True)


def test_llama_cpp() -> None:
    bare, endless, held = rows_of(
        "llama.cpp",
        {"prompt": "Hi"},
        {"prompt": "Hi", "n_predict": -1, "repeat_penalty": 1.1, "cache_prompt": True},
        {"prompt": "Hi", "n_predict": 9, "grammar": 'root ::= "a"', "n_probs": 4, "samplers": []},
    )
    assert bare.params.max_tokens == 256
    assert (endless.params.max_tokens, endless.params.repetition_penalty) == (1_000_000, 1.1)
    assert held.params.structured_outputs is not None
    assert (held.params.max_tokens, held.params.top_logprobs) == (9, 4)


def test_ollama() -> None:
    plain, chat = rows_of(
        "Ollama",
        {"model": "m", "prompt": "Hi", "system": "Be", "options": {"num_predict": 9, "seed": 3}},
        {"model": "m", "messages": USER, "format": SCHEMA, "stream": False},
        as_chat=True,
    )
    assert plain.messages == [{"role": "system", "content": "Be"}, *USER]
    assert (plain.params.max_tokens, plain.params.seed) == (9, 3)
    assert chat.messages == USER
    assert chat.params.structured_outputs is not None


@pytest.mark.parametrize("is_new", [False, True])
def test_lm_eval(is_new: bool) -> None:
    def asked(*requests: tuple[Any, Any]) -> Any:
        if not is_new:
            return requests
        return {f"gen_args_{n}": {"arg_0": a, "arg_1": b} for n, (a, b) in enumerate(requests)}

    own = {"until": ["\n"], "max_gen_toks": 9, "do_sample": False, "temperature": 0.0}
    (row,) = rows_of("lm-eval", {"doc_id": 4, "target": "4", "arguments": asked(("Q:", own))})
    assert (row.id, row.prompt, row.kept["target"]) == ("4", "Q:", "4")
    assert (row.params.stop, row.params.max_tokens) == (("\n",), 9)
    labels = asked(("Q:", " yes"), ("Q:", " no"))
    (row,) = rows_of("lm-eval of choices", {"doc_id": 4, "target": "0", "arguments": labels})
    assert (row.prompt, row.params.choices) == ("Q:", (" yes", " no"))


def test_mt_bench() -> None:
    (row,) = rows_of("MT-bench", {"question_id": 81, "turns": ["Hi", "Go on"]}, as_chat=True)
    assert (row.id, row.messages) == ("81", USER)
