"""`choices` and `questions`: the label that the model finds most likely, and how likely each is."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builtin_oracle import answers, chat_ids, log_probabilities, model, tokenizer
from click.testing import CliRunner
from echo_runs import write_rows
from tokenizer_folders import with_added_past_the_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from batchgen import LLM, InputSpec
from batchgen.cli.main import cli
from batchgen.engine.request import Question, SamplingParams
from batchgen.errors import ErrorCode, FingerprintMismatchError, RowError, UsageError
from batchgen.job.decisions.question_texts import asked_chat
from batchgen.job.decisions.settings import read_labels, unheeded
from batchgen.job.fields.params import apply, merge, read_params
from batchgen.job.input.reader import Reader

DOCUMENT = "The small fox reads a long letter about rain. It walks home and tells its friends. " * 3
CHAT = [{"role": "user", "content": DOCUMENT + "Who walks home?"}]
LABELS = {
    "one_token": ["a", "b", "c"],
    "shared_first": [" happy", " happily", " sad", " sorry"],
    "prefixes": ["good", "good enough", "bad"],
    "long": ["the small fox", "the small bird", "nobody"],
    "unicode": ["ja", "nein", "weiß nicht"],
}
QUESTIONS: list[dict[str, Any]] = [
    {"name": "who", "question": "Who reads?", "choices": ["fox", "bird", "fish"]},
    {"name": "mood", "question": "What is the mood?", "choices": ["glad", "gladly", "sad"]},
    {"question": "Is it raining?"},
]
ROWS: list[dict[str, Any]] = [
    *({"id": f"chat_{n}", "messages": CHAT, "choices": c} for n, c in LABELS.items()),
    *({"id": f"text_{n}", "prompt": DOCUMENT + "He is", "choices": c} for n, c in LABELS.items()),
    {"id": "space", "prompt": "It is ", "choices": ["good", "bad"]},
    {"id": "ids", "prompt_token_ids": [9, 8, 7], "choices": ["a", "bc"]},
    {"id": "asked", "messages": CHAT, "questions": QUESTIONS, "choices": ["yes", "no"]},
    {"id": "asked_text", "prompt": DOCUMENT, "questions": QUESTIONS[:2]},
    {"id": "plain", "messages": CHAT, "max_tokens": 6, "temperature": 1, "seed": 4},
    {"id": "scored", "prompt": DOCUMENT, "max_tokens": 0, "prompt_logprobs": 1},
    {"id": "top", "prompt": DOCUMENT, "max_tokens": 4, "top_logprobs": 2},
]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decisions")
    answers(folder, ROWS, save_token_ids=True, max_num_batched_tokens=40)
    return folder / "out.parquet"


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(path).to_pylist()}


def expected(prompt: Sequence[int], joined: Sequence[Sequence[int]], ends: bool) -> list[float]:
    """Each label by a forward pass of its own: sum over its tokens, and over the ways to end it."""
    shared = min(
        next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), len(prompt))
        for ids in joined
    )
    found = []
    for ids in joined:
        logits = log_probabilities(ids).double()
        total = sum(float(logits[i - 1, ids[i]]) for i in range(shared, len(ids)))
        if ends:
            stops = model().generation_config.eos_token_id
            stops = stops if isinstance(stops, list) else [stops]
            total += float(logits[-1, stops].logsumexp(0))
        found.append(total)
    return found


def encoded(row: dict[str, Any], labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    tokens = tokenizer()
    if "messages" not in row:
        texts = [row["prompt"], *(row["prompt"] + label for label in labels)]
        ids = [tokens(text)["input_ids"] for text in texts]
        return ids[0], ids[1:]
    text = tokens.apply_chat_template(row["messages"], add_generation_prompt=True, tokenize=False)
    ids = [tokens(text + label, add_special_tokens=False)["input_ids"] for label in ("", *labels)]
    assert ids[0] == chat_ids(row["messages"])
    return ids[0], ids[1:]


def check(found: dict[str, Any], labels: Sequence[str], logprobs: Sequence[float]) -> None:
    assert [one["label"] for one in found["choice_probs"]] == list(labels)
    assert [one["logprob"] for one in found["choice_probs"]] == pytest.approx(logprobs, abs=1e-4)
    weights = [math.exp(value) for value in logprobs]
    probs = [weight / sum(weights) for weight in weights]
    assert [one["prob"] for one in found["choice_probs"]] == pytest.approx(probs, abs=1e-4)
    assert sum(one["prob"] for one in found["choice_probs"]) == pytest.approx(1)
    assert found["choice"] == labels[probs.index(max(probs))]


@pytest.mark.parametrize("name", [row["id"] for row in ROWS[: 2 * len(LABELS) + 1]])
def test_a_label_has_the_probability_of_its_tokens_after_the_prompt(
    together: Path, name: str
) -> None:
    row = next(row for row in ROWS if row["id"] == name)
    found = rows_of(together)[name]
    ended = "prefixes" in name
    check(found, row["choices"], expected(*encoded(row, row["choices"]), ended))
    assert (found["completion"], found["finish_reason"]) == (found["choice"], "stop")
    (whole,) = encoded(row, [found["choice"]])[1]  # a label may change the prompt's last tokens
    assert whole[-len(found["token_ids"]) :] == found["token_ids"]
    assert tokenizer().decode(found["token_ids"]).endswith(found["choice"].strip())
    assert found["prompt_tokens"] == len(encoded(row, [])[0])


def test_labels_follow_token_ids_as_they_are(together: Path) -> None:
    joined = [
        [9, 8, 7, *tokenizer()(x, add_special_tokens=False)["input_ids"]] for x in ["a", "bc"]
    ]
    check(rows_of(together)["ids"], ["a", "bc"], expected([9, 8, 7], joined, False))


@pytest.mark.parametrize("name", ["asked", "asked_text"])
def test_each_question_on_a_document_is_answered_as_if_it_were_alone(
    together: Path, name: str
) -> None:
    row = next(row for row in ROWS if row["id"] == name)
    found = rows_of(together)[name]
    names = [question.get("name", f"q{i}") for i, question in enumerate(row["questions"], 1)]
    assert [one["name"] for one in found["decisions"]] == names
    assert json.loads(found["completion"]) == {d["name"]: d["choice"] for d in found["decisions"]}
    for question, decision in zip(row["questions"], found["decisions"], strict=True):
        labels = question.get("choices", row.get("choices"))
        asked = {**row}
        if "messages" in row:
            content = f"{CHAT[0]['content']}\n\n{question['question']}"
            asked["messages"] = [{"role": "user", "content": content}]
        else:
            asked["prompt"] = f"{row['prompt']}\n\n{question['question']}"
        ended = "gladly" in labels
        check(decision, labels, expected(*encoded(asked, labels), ended))


def test_a_documents_beginning_is_computed_once_for_all_its_questions(together: Path) -> None:
    row = rows_of(together)["asked_text"]
    document = len(tokenizer()(DOCUMENT)["input_ids"])
    requests = 4  # glad, gladly and their ends need a way each, the others' first tokens one
    assert row["cached_tokens"] >= (requests - 1) * (document - 16)


def test_rows_of_every_kind_in_one_batch_equal_each_alone(together: Path, tmp_path: Path) -> None:
    by_itself = {"max_num_seqs": 1, "enable_prefix_caching": False, "fold": False}
    for alone in answers(tmp_path, ROWS, save_token_ids=True, **by_itself):
        mixed = rows_of(together)[alone["id"]]
        for name in ("completion", "token_ids", "choice", "finish_reason", "prompt_tokens"):
            assert alone[name] == mixed[name]
        assert [d["choice"] for d in alone["decisions"] or []] == [
            d["choice"] for d in mixed["decisions"] or []
        ]
        for name in ("logprobs", "prompt_logprobs"):
            if mixed[name] is not None:
                assert alone[name][1:] == pytest.approx(mixed[name][1:], abs=5e-5)
        if mixed["choice_probs"]:
            probs = [one["prob"] for one in alone["choice_probs"]]
            assert probs == pytest.approx([p["prob"] for p in mixed["choice_probs"]], abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_columns_load_in_datasets_pandas_and_duckdb(together: Path, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.Dataset.from_parquet(str(together), cache_dir=str(tmp_path))
    assert loaded[0]["choice_probs"][0]["label"] == "a"
    frame = pd.read_parquet(together).set_index("id")
    assert frame.loc["asked", "decisions"][0]["name"] == "who"
    query = f"select choice_probs[1].prob from '{together}' where id = 'chat_one_token'"
    probs = rows_of(together)["chat_one_token"]["choice_probs"]
    assert duckdb.sql(query).fetchall()[0][0] == probs[0]["prob"]


@pytest.mark.parametrize(
    "given",
    [
        {"choices": ["one"]},
        {"choices": ["a", "a"]},
        {"choices": ["a", ""]},
        {"choices": ["a", " "]},
        {"choices": ["a", None]},
        {"choices": [1.5, 2]},
        {"choices": {"text": ["a", "b"]}},
        {"choices": 3},
        {"choices": "[1"},
        {"choices": [f"l{i}" for i in range(1025)]},
        {"choices": ["a", "b"], "n": 2},
        {"choices": ["a", "b"], "prompt_logprobs": 0},
        {"choices": ["a", "b"], "logit_bias": {"3": 1}},
        {"choices": ["a", "b"], "guided_regex": "a|b"},
        {"choices": ["a", "b"], "response_format": {"type": "json_object"}},
        {"choices": ["a", "b"], "bad_words": ["x"]},
        {"questions": [{"question": "Q?"}]},
        {"questions": [{"choices": ["a", "b"]}]},
        {"questions": [{"question": "Q?", "prompt": "P?", "choices": ["a", "b"]}]},
        {"questions": [{"question": "Q?", "choices": ["a", "b"], "labels": 1}]},
        {"questions": [{"question": "Q?", "choices": ["a"]}]},
        {"questions": [{"name": "x", "question": q, "choices": ["a", "b"]} for q in "QP"]},
        {"questions": ["Q?"]},
        {"questions": [{"name": 3, "question": "Q?", "choices": ["a", "b"]}]},
    ],
)
def test_labels_that_cannot_be_decided_between_are_invalid_params(given: dict[str, Any]) -> None:
    with pytest.raises(RowError) as caught:
        apply(SamplingParams(), read_params(given))
    assert caught.value.code is ErrorCode.INVALID_PARAM


def test_labels_are_written_as_a_list_as_json_or_with_commas() -> None:
    for written in (["a", "b c"], '["a", "b c"]', "a, b c", ("a", "b c")):
        assert read_params({"choices": written}) == {"choices": ("a", "b c")}
    assert read_labels("choices", [1, 2]) == ("1", "2")
    for nothing in (None, [], "", ()):
        assert read_params({"choices": nothing, "questions": nothing}) == {}
    question = [{"question": "Q?", "choices": ["a", "b"]}]
    read = {"questions": (Question("q1", "Q?", ("a", "b")),)}
    assert read_params({"questions": question}) == read_params({"questions": json.dumps(question)})
    assert read_params({"questions": question}) == read


def test_labels_come_from_any_kind_of_input_and_rows_win_over_flags(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "choices": ["x", "y"]}, {"prompt": "b", "choices": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text('prompt,choices\na,"x, y"\nb,\n')
    for name in ("in.parquet", "in.csv"):
        given = InputSpec((str(tmp_path / name),))
        read = [row.params.choices for row in Reader(given, flags={"choices": ["q", "r"]})]
        assert read == [("x", "y"), ("q", "r")]
    kept = InputSpec((str(tmp_path / "in.csv"),), keep_columns="choices")
    assert [row.params.decides for row in Reader(kept)] == [False, False]


def test_settings_that_no_label_heeds_are_told_once_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": "a", "choices": ["x", "y"], "temperature": 0.7, "stop": "z", "seed": 3},
        {"prompt": "b", "choices": ["x", "y"], "temperature": 0.2, "max_tokens": 1},
        {"prompt": "c", "temperature": 0.9, "min_p": 0.1},
        {"prompt": "d", "choices": ["x", "y"], "temperature": 0, "top_p": 1, "max_tokens": 256},
    ]
    answers(tmp_path, rows, engine="echo", dtype="auto", sampling={"presence_penalty": 0.5})
    said = [text for text in caplog.messages if "changes nothing in rows with choices" in text]
    assert sorted(text.split()[1] for text in said) == [
        *("max_tokens", "presence_penalty", "stop", "temperature")
    ]
    assert all("out.jsonl:1:" in text or "out.jsonl:2:" in text for text in said)


def test_what_the_model_itself_sets_is_not_told() -> None:
    model = SamplingParams(temperature=0.6, top_p=0.95, max_tokens=100)
    own = dataclasses.replace(model, choices=("x", "y"))
    assert unheeded(own, model) == []
    assert unheeded(dataclasses.replace(own, top_p=0.5), model) == ["top_p"]
    assert unheeded(dataclasses.replace(own, temperature=0.0, choices=()), model) == []


def test_a_call_of_a_tool_and_a_choice_exclude_each_other(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    rows = [{"messages": CHAT, "tools": [tool], "tool_choice": "required", "choices": ["x", "y"]}]
    (found,) = answers(tmp_path, rows, engine="echo", dtype="auto")
    assert found["error_code"] == "invalid_param"
    assert "tool_choice and choices" in found["error_message"]


def test_flags_that_exclude_each_other_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="choices cannot be asked beside n"):
        merge({}, {"choices": ["a", "b"], "n": 2}, {})


def test_a_question_comes_last_and_turns_go_on_alternating() -> None:
    question = Question("q", "Q?")
    user, answer = {"role": "user", "content": "D"}, {"role": "assistant", "content": "A"}
    assert asked_chat([user], question) == [{"role": "user", "content": "D\n\nQ?"}]
    assert asked_chat([user, answer], question)[-1] == {"role": "user", "content": "Q?"}
    parts = [{"role": "user", "content": [{"type": "text", "text": "D"}]}]
    assert asked_chat(parts, question)[0]["content"][-1]["text"] == "\n\nQ?"
    assert user["content"] == "D"


def test_the_flag_decides_every_row_and_is_part_of_the_job(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b", "n": 2}])
    out = str(tmp_path / "out.parquet")
    words = ["run", "-i", str(source), "-o", out, "--engine", "echo", "-q", "--choices"]
    result = CliRunner().invoke(cli, [*words, "yes, no", "--choices", '["may, be"]'])
    assert result.exit_code == 3, result.output
    good, bad = pq.read_table(out).to_pylist()
    assert [one["label"] for one in good["choice_probs"]] == ["yes", "no", "may, be"]
    assert (good["choice"], good["choice_probs"][2]["prob"]) == ("yes", pytest.approx(1 / 3))
    assert (bad["error_code"], bad["choice"]) == ("invalid_param", None)
    rows = [{"prompt": "abc", "choices": ["x", "y"], "truncate_prompt_tokens": 2}]
    (cut,) = answers(tmp_path, rows, "cut", engine="echo", dtype="auto")
    assert "truncate_prompt_tokens" in cut["error_message"]
    changed = CliRunner().invoke(cli, [*words, "yes,no"])
    assert isinstance(changed.exception, FingerprintMismatchError)
    assert CliRunner().invoke(cli, [*words, "yes"]).exit_code == 2


def test_validate_finds_rows_that_cannot_be_decided(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "choices": ["x"]},
        {"prompt": "a", "choices": ["x", "y"]},
        {"prompt": "a", "questions": [{"question": "Q?"}], "choices": ["x", "y"]},
        {"prompt": "a", "questions": [{"question": "Q?"}]},
        {"prompt": "a", "echo": True},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    result = CliRunner().invoke(cli, ["validate", "--in", str(source)])
    assert result.exit_code == 65
    said = [line for line in result.output.splitlines() if "in.jsonl:" in line]
    assert [line.split("in.jsonl:")[1][0] for line in said] == ["1", "4", "5"]


def test_rows_that_a_retry_keeps_keep_their_columns(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "choices": ["x", "y"]}, {"prompt": "b", "n": 0}, {"prompt": "c"}]
    echo: dict[str, Any] = {"engine": "echo", "dtype": "auto"}
    before = answers(tmp_path, rows, **echo)
    after = answers(tmp_path, rows, retry="failed", **echo)
    assert (
        [row["choice"] for row in before] == [row["choice"] for row in after] == ["x", None, None]
    )
    assert [row["choice_probs"] for row in before] == [row["choice_probs"] for row in after]
    assert [row["attempt"] for row in after] == [1, 2, 1]


def test_tokens_past_the_model_s_vocabulary_end_no_label_and_are_none(tmp_path: Path) -> None:
    folder = with_added_past_the_model(tmp_path / "m")
    rows = [{"prompt": "a", "choices": ["go", "good"]}, {"prompt": "a", "choices": ["x", "[END]"]}]
    with LLM(str(folder), device="cpu", dtype="float32") as model:
        decided, refused = model.generate(rows)
    assert decided.ok
    assert decided.choice in ("go", "good")
    assert refused.error_code == ErrorCode.INVALID_ROW
    assert "outside the model's vocabulary" in str(refused.error_message)


def test_an_end_that_the_tokenizer_puts_behind_text_is_no_part_of_a_label(tmp_path: Path) -> None:
    folder = with_added_past_the_model(tmp_path / "m")
    row = {"prompt": "Hello world:", "choices": ["yes", "no", "a test"]}
    found = []
    for template in ("<s> $A", "<s> $A </s>", "<s> $A </s> </s>"):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ends = [(one, tokenizer.token_to_id(one)) for one in ("<s>", "</s>")]
        tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=ends)
        tokenizer.save(str(folder / "tokenizer.json"))
        with LLM(str(folder), device="cpu", dtype="float32") as model:
            (result,) = model.generate([row])
        found.append([(one["label"], round(one["logprob"], 4)) for one in result.choice_probs])
    assert found[0] == found[1] == found[2]


def test_labels_that_follow_a_word_of_the_prompt_with_no_space_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    glued = "labels follow the prompt as they are"
    for number, (prompt, labels, is_told) in enumerate(
        (
            ("Sentiment:", " good, bad", True),
            ("Sentiment:", '[" good", " bad"]', False),
            ("Sentiment: ", "good,bad", False),
            ('{"sentiment": "', "good,bad", False),
            ("気分は", "good,bad", False),
        )
    ):
        caplog.clear()
        rows = [{"prompt": prompt, "choices": labels}] * 2
        answers(tmp_path, rows, str(number), engine="echo", dtype="auto")
        said = [text for text in caplog.messages if glued in text]
        assert len(said) == is_told, (prompt, labels)
        if said:
            assert 'here "Sentiment:good": ' in said[0]
            assert """--choices '[" good", " bad"]'""" in said[0]
    caplog.clear()
    rows = [{"messages": CHAT, "choices": ["a", "b"]}]
    answers(tmp_path, rows, "chat", engine="echo", dtype="auto")
    assert not [text for text in caplog.messages if glued in text]
