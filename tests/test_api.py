"""The Python API: rows in, typed results out, bounded in flight, whatever the user's code does."""

from __future__ import annotations

import asyncio
import copy
import doctest
import gc
import json
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import FrozenInstanceError, fields
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from echo_runs import prompts, write_rows

import batchgen
from batchgen import LLM, Result, SamplingParams, generate, run
from batchgen.api import calls, llm, source
from batchgen.engine.run.echo import EchoEngine
from batchgen.errors import UsageError
from batchgen.job.flow.slow_engine import SlowEngine
from batchgen.job.rows import OutputRow
from batchgen.job.schema import BASE_SCHEMA


@pytest.fixture
def echo() -> Iterator[LLM]:
    with LLM(engine="echo", max_num_seqs=8) as model:
        yield model


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    """Two rows a step, a step each 5 ms."""
    monkeypatch.setattr(llm, "load_job_engine", lambda *_: SlowEngine(EchoEngine(8), 0.005, 2))
    with LLM(engine="echo") as model:
        yield model


def endless(pulled: list[int]) -> Iterator[str]:
    """More rows than a test lets anyone take; it ends, so that a fault fails and does not hang."""
    for number in range(5000):
        pulled.append(number)
        yield f"row {number}"


def test_a_result_has_the_output_s_columns_and_cannot_be_changed(echo: LLM) -> None:
    names = {field.name for field in fields(Result)} - {"columns"}
    assert names >= set(BASE_SCHEMA.names)
    assert names <= {field.name for field in fields(OutputRow)}
    (result,) = echo.generate([{"prompt": "x", "tag": [1, {"a": 2}]}])
    assert result.ok
    assert result.columns == {"tag": [1, {"a": 2}]}
    assert result.token_ids == [ord("x")]
    assert result.started_at is not None
    with pytest.raises(FrozenInstanceError):
        result.completion = "y"  # type: ignore[misc]


def test_rows_of_every_kind_are_read_as_lines_of_a_job_are(echo: LLM) -> None:
    rows: list[Any] = [
        "text",
        {"prompt": "text", "id": 7},
        [{"role": "user", "content": "hi"}],
        [72, 105],
        (72, 105),
        {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
        {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "p"}},
        {"prompt": "text", "params": SamplingParams(max_tokens=2)},
        {"prompt": "text", "params": {"max_tokens": 1}},
    ]
    results = list(echo.generate(rows))
    assert [r.error_message for r in results] == [None] * 9
    assert [r.index for r in results] == list(range(9))
    assert [r.id for r in results][:2] == ["0", "7"]
    assert [r.completion for r in results] == [
        "text", "text", results[2].prompt, "Hi", "Hi", "use", "p", "te", "t"
    ]  # fmt: skip


def test_tables_and_data_sets_are_rows(echo: LLM) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"prompt": ["a", "b"], "max_tokens": [1, None], "tag": ["x", None]}
    frame = pd.DataFrame(columns)
    for rows in (frame, pa.table(columns), datasets.Dataset.from_dict(columns)):
        results = list(echo.generate(rows))
        assert [r.completion for r in results] == ["a", "b"]
        assert [r.columns.get("tag") for r in results] == ["x", None]


def test_a_table_is_rows_in_whatever_pieces_it_comes(echo: LLM) -> None:
    """A batch of Arrow's was its columns, a row of pandas' a chat of its values."""
    columns = {"id": ["a", "b"], "prompt": ["one", "two"], "max_tokens": [2, 3]}
    frame, table = pd.DataFrame(columns), pa.table(columns)
    batch = table.to_batches()[0]
    pieces = [batch.slice(0, 1), batch.slice(1)]
    rows_of: dict[str, Any] = {
        "a batch": batch,
        "a reader of batches": table.to_reader(),
        "batches": iter(pieces),
        "frames": (frame[i : i + 1] for i in range(2)),
        "series": [row for _, row in frame.iterrows()],
        "named tuples": frame.itertuples(),
    }
    for kind, rows in rows_of.items():
        found = [(r.id, r.completion) for r in echo.generate(rows)]
        assert found == [("a", "on"), ("b", "two")], kind


@pytest.mark.parametrize(
    "rows", [[{"prompt": "a"}], pd.DataFrame({"prompt": ["a"]}), (row for row in ["a"])]
)
def test_rows_in_place_of_files_are_told_where_they_go(tmp_path: Path, rows: Any) -> None:
    """They were a file that "does not exist"."""
    with pytest.raises(UsageError, match="inputs takes names of files") as refused:
        run(inputs=rows, out=tmp_path / "out.parquet", engine="echo")
    assert "generate(rows)" in str(refused.value.hint)


def test_a_query_and_values_without_names_are_told_what_to_give(echo: LLM) -> None:
    class Query:
        __module__ = "polars.lazyframe.frame"

        def collect(self) -> None: ...

    with pytest.raises(UsageError, match="was not run yet") as raised:
        echo.generate(Query())  # type: ignore[arg-type]
    assert "rows.collect()" in str(raised.value.hint)
    (result,) = echo.generate([("a", "one")])
    assert "dict(zip(names, row))" in str(result.error_message)


def test_what_pandas_has_for_a_missing_value_is_none_there(echo: LLM) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "max_tokens": [1, None], "seed": [None, 3]})
    for rows in (frame, frame.convert_dtypes(), frame.convert_dtypes(dtype_backend="pyarrow")):
        results = list(echo.generate(rows))
        assert [(r.completion, r.error_message) for r in results] == [("a", None), ("b", None)]


def test_missing_values_in_rows_of_one_s_own_raise_nothing(echo: LLM) -> None:
    rows = [{"id": pd.NA, "prompt": "a"}, {"id": pd.NaT, "prompt": "b", "seed": pd.NA}]
    assert [(r.id, r.completion) for r in echo.generate(rows)] == [("0", "a"), ("1", "b")]


def test_names_of_columns_that_are_no_texts_are_read_as_texts(echo: LLM) -> None:
    (result,) = echo.generate([{"prompt": "a", 1: "one", None: 2}])
    assert (result.completion, result.columns) == ("a", {"1": "one", "None": 2})


def test_texts_of_arrays_and_enums_are_prompts(echo: LLM) -> None:
    label = StrEnum("label", {"ONE": "a"}).ONE
    for rows in (np.array(["a", "b"]), pa.array(["a", "b"]), pd.Series(["a", "b"]), [label, "b"]):
        assert [r.completion for r in echo.generate(rows)] == ["a", "b"]
    assert [r.completion for r in echo.generate([{"prompt": label}])] == ["a"]
    number = UUID(int=7)
    assert [r.id for r in echo.generate([{"id": number, "prompt": "a"}])] == [str(number)]


@pytest.mark.parametrize("rows", ["one", {"prompt": "one"}, b"one", 5])
def test_one_row_is_no_iterable_of_rows(echo: LLM, rows: Any) -> None:
    with pytest.raises(UsageError, match="iterable of rows"):
        echo.generate(rows)


def test_a_bad_row_is_a_typed_result_in_its_place(echo: LLM) -> None:
    rows: list[Any] = [
        {"id": "a", "prompt": "x"},
        {"id": "a", "prompt": "x"},
        {"prompt": "x", "temperature": -1},
        {"prompt": 5},
        {"no": "prompt"},
        object(),
        {"prompt": "\ud800"},
        {"prompt": "x", "params": SamplingParams(top_p=7)},
        {"prompt": "x", "params": {"tempratur": 1}},
        "good",
    ]
    assert [r.error_code for r in echo.generate(rows)] == [
        None, "duplicate_id", "invalid_param", "invalid_row", "missing_prompt", "invalid_row",
        "invalid_row", "invalid_param", "unknown_param", None,
    ]  # fmt: skip


@pytest.mark.parametrize("in_order", [True, False])
def test_rows_in_flight_are_bounded_on_both_sides(slow: LLM, in_order: bool) -> None:
    pulled: list[int] = []
    stream = slow.generate(endless(pulled), in_order=in_order, max_in_flight=10)
    assert pulled == []
    for number, result in enumerate(stream):
        assert len(pulled) <= number + 10
        if in_order:
            assert result.index == number
        if number == 60:
            break
    before = len(pulled)
    threading.Event().wait(0.1)  # the engine goes on, and nothing more is pulled
    assert len(pulled) == before
    stream.close()
    assert [r.completion for r in slow.generate(["after"])] == ["after"]


def test_all_samples_of_a_row_come_together_and_count_as_one(slow: LLM) -> None:
    rows = [{"prompt": f"p{i}", "n": 1 + i % 3} for i in range(20)]
    results = list(slow.generate(rows, max_in_flight=3))
    assert [(r.index, r.sample) for r in results] == [
        (i, sample) for i in range(20) for sample in range(1 + i % 3)
    ]


def test_as_they_finish_every_row_comes_once(slow: LLM) -> None:
    results = list(slow.generate(prompts(50), in_order=False))
    assert sorted(r.index for r in results) == list(range(50))


def test_what_the_user_s_rows_raise_comes_after_the_rows_before_it(slow: LLM) -> None:
    def rows() -> Iterator[str]:
        yield from map(str, range(30))
        raise KeyError("mine")

    found: list[str | None] = []
    stream = slow.generate(rows())
    with pytest.raises(KeyError, match="mine"):
        found.extend(result.completion for result in stream)
    assert found == [str(i) for i in range(30)]
    assert [r.completion for r in slow.generate(["again"])] == ["again"]


def test_an_iterator_that_is_forgotten_frees_the_engine(slow: LLM) -> None:
    pulled: list[int] = []
    for _ in slow.generate(endless(pulled)):
        break
    gc.collect()
    assert len(list(slow.generate(prompts(9)))) == 9


def test_an_iterator_forgotten_in_a_ring_frees_the_engine(slow: LLM) -> None:
    gc.disable()
    try:
        ring: list[Any] = [slow.generate(endless([]))]
        ring.append(ring)
        next(ring[0])
        del ring
        assert [r.completion for r in slow.generate(["after"])] == ["after"]
    finally:
        gc.enable()


def test_a_second_iterator_is_refused_while_one_is_open(echo: LLM) -> None:
    first = echo.generate(prompts(30), max_in_flight=2)
    next(first)
    with pytest.raises(UsageError, match="not exhausted"):
        echo.generate(["x"])
    assert len(list(first)) == 29
    late, later = echo.generate(["x"]), echo.generate(["y"])
    assert [r.completion for r in later] == ["y"]
    assert [r.completion for r in late] == ["x"]


def test_ctrl_c_while_waiting_ends_the_call_and_not_the_model(slow: LLM) -> None:
    threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in slow.generate(endless([])):
            pass
    assert [r.completion for r in slow.generate(["again"])] == ["again"]


def test_an_engine_that_breaks_is_told_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EchoEngine):
        def step(self) -> Any:
            raise ZeroDivisionError("inside")

    monkeypatch.setattr(llm, "load_job_engine", lambda *_: Broken())
    with LLM(engine="echo") as model, pytest.raises(ZeroDivisionError, match="inside"):
        list(model.generate(["x"]))


def test_parameters_of_a_call_an_object_says_all_and_a_mapping_what_it_names() -> None:
    with LLM(engine="echo", max_tokens=3) as model:
        assert [r.completion for r in model.generate(["abcdef"])] == ["abc"]
        assert [r.completion for r in model.generate(["abcdef"], {"n": 2})] == ["abc", "abc"]
        one = SamplingParams(max_tokens=5)
        assert [r.completion for r in model.generate(["abcdef"], one)] == ["abcde"]
        own = [{"prompt": "abcdef", "max_tokens": 1}]
        assert [r.completion for r in model.generate(own, one)] == ["a"]
        each = [{"max_tokens": 1}, None, SamplingParams()]
        found = [r.completion for r in model.generate(["abcdef"] * 3, each)]
        assert found == ["a", "abc", "abcdef"]
        with pytest.raises(UsageError, match="top_p"):
            model.generate(["x"], SamplingParams(top_p=0))
        with pytest.raises(UsageError, match="ended after 1 row"):
            list(model.generate(["x", "y"], [None]))


def test_options_are_the_command_s_flags() -> None:
    with pytest.raises(UsageError, match="did you mean max_tokens"):
        LLM(engine="echo", max_token=5)
    with pytest.raises(UsageError, match="jobs over files"):
        LLM(engine="echo", checkpoint_every=5)
    with pytest.raises(UsageError, match="temperature"):
        LLM(engine="echo", temperature=-1)
    with LLM(engine="echo", as_chat=True, system="S", stop=["x", "y"], fold=False) as model:
        assert [r.prompt for r in model.generate(["hi"])] == ["system: S\nuser: hi\nassistant: "]
    with pytest.raises(UsageError, match="closed"):
        model.generate(["x"])


def test_a_template_of_columns_and_choices_work_as_in_a_job(tmp_path: Path) -> None:
    template = tmp_path / "t.j2"
    template.write_text("{{ who }} likes {{ what }}")
    with LLM(engine="echo", template=str(template)) as model:
        (result,) = model.generate([{"who": "Ann", "what": "tea", "id": "x"}])
        assert (result.prompt, result.completion) == ("Ann likes tea", "Ann likes tea")
        assert result.error_code is None
    with LLM(engine="echo") as model:
        rows = [{"prompt": "p", "choices": ["yes", "no"]}]
        (result,) = model.generate(rows)
        (same,) = model.generate(["p"], SamplingParams(choices=("yes", "no")))
        assert result.choice is not None
        assert result.choice_probs == same.choice_probs


def test_run_is_the_file_job(tmp_path: Path) -> None:
    given = write_rows(tmp_path / "in.jsonl", prompts(20))
    out = tmp_path / "out.parquet"
    options: dict[str, Any] = {"engine": "echo", "quiet": True, "max_tokens": 4, "shard": "none"}
    summary = run(inputs=given, out=out, **options)
    assert (summary.rows, summary.computed, summary.exit_code) == (20, 20, 0)
    assert run(input_file=[given], output_file=out, **options).computed == 0
    with pytest.raises(batchgen.BatchgenError, match="max_tokens"):
        run(inputs=given, out=out, **options | {"max_tokens": 5})
    with pytest.raises(UsageError, match="--out"):
        run(inputs=given, engine="echo")


@pytest.mark.parametrize("stop", ["the end", ["the end", "###"]])
def test_run_takes_stop_texts_as_the_flag_does(tmp_path: Path, stop: Any) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(2))
    settings = {"inputs": source, "out": tmp_path / "out.parquet", "engine": "echo", "quiet": True}
    assert run(**settings, stop=stop).computed == 2
    manifest = json.loads((tmp_path / "out.parquet.ckpt" / "manifest.json").read_text())
    assert manifest["fingerprint"]["sampling.stop"] == ([stop] if isinstance(stop, str) else stop)


def test_ctrl_c_stops_run_with_everything_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHGEN_FAULT", "slow:at=engine.step,seconds=0.01,rows=1")
    given = write_rows(tmp_path / "in.jsonl", prompts(60))
    options: dict[str, Any] = {"inputs": given, "out": tmp_path / "o.parquet", "engine": "echo"}
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        run(**options, quiet=True)
    monkeypatch.delenv("BATCHGEN_FAULT")
    summary = run(**options, quiet=True)
    assert summary.rows == 60
    assert summary.reused > 0


def test_an_event_loop_runs_on_while_results_are_awaited(slow: LLM) -> None:
    async def main() -> tuple[int, list[str | None]]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        found = [r.completion async for r in slow.agenerate(map(str, range(40)))]
        ticking.cancel()
        return ticks, found

    ticks, found = asyncio.run(main())
    assert found == [str(i) for i in range(40)]
    assert ticks > 10


def test_async_rows_are_pulled_as_far_as_allowed_and_results_do_not_wait_for_them(
    slow: LLM,
) -> None:
    async def main() -> None:
        pulled = 0
        answered = asyncio.Event()

        async def rows() -> AsyncIterator[str]:
            nonlocal pulled
            for number in range(30):
                if number == 20:  # asks for the answers to the rows before it
                    await asyncio.wait_for(answered.wait(), 5)
                pulled += 1
                yield str(number)

        given = 0
        async for result in slow.agenerate(rows(), max_in_flight=4):
            given += 1
            assert pulled <= given + 4
            if result.index == 19:
                answered.set()
        assert given == 30

    asyncio.run(main())


def test_async_rows_that_end_in_a_cancelled_wait_end_the_call(echo: LLM) -> None:
    async def rows() -> AsyncIterator[str]:
        yield "a"
        raise asyncio.CancelledError

    async def main() -> None:
        stream = echo.agenerate(rows())
        assert (await asyncio.wait_for(anext(stream), 30)).completion == "a"
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(anext(stream), 30)
        await stream.aclose()
        assert [r.completion async for r in echo.agenerate(["after"])] == ["after"]

    asyncio.run(main())


def test_a_cancelled_wait_loses_no_result_and_closing_frees_the_engine(slow: LLM) -> None:
    async def main() -> None:
        stream = slow.agenerate(map(str, range(10)))
        found = []
        while len(found) < 10:
            try:
                found.append((await asyncio.wait_for(anext(stream), 0.002)).completion)
            except TimeoutError:
                continue
        assert found == [str(i) for i in range(10)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        async with slow.agenerate(endless([])) as open_one:
            await anext(open_one)
        assert [r.completion async for r in slow.agenerate(["after"])] == ["after"]

    asyncio.run(main())


def test_generate_loads_and_frees_a_model_of_its_own() -> None:
    before = threading.active_count()
    stream = generate(["a", "b"], engine="echo", max_in_flight=1)
    assert next(stream).completion == "a"
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("module", [llm, calls, source])
def test_the_examples_in_docstrings_run(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", prompts(2))
    failures, tried = doctest.testmod(module, raise_on_error=True)
    assert failures == 0
    assert tried or module is source


@pytest.mark.parametrize("params", ["greedy", 5, ["greedy"], [None, 7]])
def test_parameters_that_are_none_are_refused_by_name(echo: LLM, params: Any) -> None:
    with pytest.raises(UsageError, match="SamplingParams"):
        list(echo.generate(["a", "b"], params))


def test_one_message_in_place_of_a_chat_is_told(echo: LLM) -> None:
    (result,) = echo.generate([{"role": "user", "content": "Hi"}])
    assert result.error_code == "invalid_row"
    assert "a list of them" in (result.error_message or "")
    with pytest.raises(UsageError, match="max_in_flight"):
        echo.generate(["a"], max_in_flight=0)


def test_names_of_other_tools_are_answered_with_ours(echo: LLM) -> None:
    (result,) = echo.generate(["a"])
    for given, name, said in (
        (echo, "chat", "generate takes chats"),
        (echo, "embed", "embeddings are not served"),
        (result, "outputs", "completion is its text"),
        (result, "nothing", "a Result has no nothing"),
    ):
        with pytest.raises(AttributeError, match=said):
            getattr(given, name)
        assert not hasattr(given, name)
    for call in (echo.generate, echo.agenerate):
        with pytest.raises(TypeError, match="no argument prompts: rows come first"):
            call(prompts=["a"])
        with pytest.raises(TypeError, match="generate needs rows"):
            call()
    with pytest.raises(TypeError, match=r"list\(llm.generate"):
        echo.generate(["a"])[0]
    assert copy.deepcopy(result) == pickle.loads(pickle.dumps(result)) == result


def test_a_traceback_says_what_to_do_next(echo: LLM) -> None:
    with pytest.raises(UsageError) as refused:
        echo.generate(["a"], max_in_flight=0)
    said = traceback.format_exception(refused.value)
    assert said[-1] == "next: leave it out\n"
    copied = pickle.loads(pickle.dumps(refused.value))
    assert (copied.message, copied.hint) == (refused.value.message, "leave it out")


FORKED = """
import os, sys
from batchgen import LLM
from batchgen.errors import UsageError
llm = LLM(as_chat=True, device="cpu", max_tokens=4)
before = [one.completion for one in llm.generate(["Where is parcel 5?"])]
sys.stdout.flush()
if (child := os.fork()) == 0:
    try:
        list(llm.generate(["a"]))
    except UsageError as error:
        print(error, flush=True)
    llm.close()
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
assert [one.completion for one in llm.generate(["Where is parcel 5?"])] == before
print("parent goes on")
"""


def test_a_fork_s_copy_is_refused_and_ends_nothing_of_its_parent_s() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("this LLM was loaded in another process")
    assert second == "parent goes on"
