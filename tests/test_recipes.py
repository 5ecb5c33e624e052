"""The page of recipes: each example runs as it stands, in this process, and does what is said."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import Proxy

from batchgen.cli.command import main
from batchgen.cli.main import cli
from batchgen.job.stores import clients

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "batchgen" / "docs" / "recipes.md").read_text(encoding="utf-8")
ECHO = ("--engine", "echo")
HEREDOC = re.compile(r"cat > (\S+) <<'END'\n(.*?)^END$", re.DOTALL | re.MULTILINE)


def blocks(title: str) -> list[tuple[str, str]]:
    """(language, text) of each block below a heading."""
    section = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    assert section is not None
    return re.findall(r"```(\w+)\n(.*?)```", section[1], flags=re.DOTALL)


def play(title: str, *flags: str) -> None:
    """Run a section's blocks one after the other, `run` with these flags too; what is neither bash
    nor Python needs a scheduler."""
    names: dict[str, Any] = {}
    for language, text in blocks(title):
        if language == "bash":
            shell(text, flags)
        elif language == "python":
            cell(text, names)


def shell(text: str, flags: tuple[str, ...]) -> None:
    for name, content in HEREDOC.findall(text):
        Path(name).write_text(content, encoding="utf-8")
    for line in HEREDOC.sub("", text).split("\n"):
        if line:
            program, *words = shlex.split(line)
            assert program == "batchgen"
            assert main([*words, *(flags if words[0] == "run" else ())]) == 0, line


def cell(text: str, names: dict[str, Any]) -> None:
    """As a notebook runs one: `await` stands outside of functions too."""
    code = compile(text, "recipes.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, names)
    if inspect.isawaitable(waiting):
        asyncio.run(_done(waiting))


async def _done(waiting: Any) -> None:
    await waiting


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the sample data, on a CPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.setenv("BATCHGEN_DEVICE", "cpu")
    return tmp_path


def rows(name: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = pq.read_table(name).to_pylist()
    return read


def stories() -> None:
    """Rows that later sections use, without running theirs."""
    (text,) = [text for language, text in blocks("Several samples of each prompt")]
    for name, content in HEREDOC.findall(text):
        Path(name).write_text(content, encoding="utf-8")


def test_a_parquet_column_is_labelled() -> None:
    play("Label a Parquet column")
    said = [json.loads(row["completion"])["label"] for row in rows("labels.parquet")]
    assert said == ["delivery", "refund", "praise"]
    assert [row["id"] for row in rows("labels.parquet")] == ["7", "8", "9"]
    assert rows("labels-2.parquet")[0]["status"] == "ok"
    assert {row["choice"] for row in rows("choices.parquet")} <= {"praise", "complaint"}


def test_an_openai_batch_file_is_answered_in_its_own_form() -> None:
    play("An OpenAI batch file")
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [one["custom_id"] for one in answers] == ["a", "b"]
    said = answers[1]["response"]["body"]["choices"][0]["message"]["content"]
    assert json.loads(said)["label"] == "cancel"


def test_structured_output_is_what_the_schema_says() -> None:
    pytest.importorskip("llguidance")
    play("Structured output")
    first, second = (row["completion"] for row in rows("extract.parquet"))
    assert set(json.loads(first)) == {"amount", "currency"}
    assert second in ("yes", "no")


def test_texts_are_scored() -> None:
    play("Score texts")
    assert all(row["status"] == "ok" and row["prompt_logprobs"] for row in rows("scores.parquet"))


def test_samples_are_told_apart() -> None:
    play("Several samples of each prompt")
    found = rows("samples.parquet")
    assert [row["sample"] for row in found] == [0, 1, 2, 3] * 2
    assert len({row["completion"] for row in found}) > 1


def test_one_job_s_answers_stand_in_the_next_one_s_prompts() -> None:
    play("One job's answers in the next one's prompts")
    drafts = [(row["id"], row["sample"], row["completion"]) for row in rows("drafts.parquet")]
    judged = rows("judged.parquet")
    assert [(row["row"], int(row["id"][-1]), row["draft"]) for row in judged] == drafts
    assert {row["choice"] for row in judged} <= {"good", "bad"}
    (first,), (second,) = rows("turn-1.parquet"), rows("turn-2.parquet")
    assert first["completion"] in second["prompt"]
    assert "cancel order 5519" in second["prompt"]


def test_a_job_goes_on() -> None:
    stories()
    play("Go on after anything", *ECHO)
    assert {row["index"] for row in rows("long.parquet")} == set(range(72))
    assert Path("long.html").read_text().startswith("<!doctype html>")


def test_a_cron_entry_runs_and_leaves_another_alone() -> None:
    ((language, line),) = blocks("Cron")
    assert language == "cron"
    stories()
    Path("stories.jsonl").rename("prompts.jsonl")
    command = line.partition("/bin/batchgen ")[2].replace("$(date +\\%F)", "2030-01-01")
    assert main([*shlex.split(command), *ECHO]) == 0
    assert len(rows("out-2030-01-01.parquet")) == 2


def test_shards_and_processes_that_join_make_the_same() -> None:
    stories()
    play("Slurm", *ECHO)
    (scripts,) = [text for language, text in blocks("Slurm") if language == "slurm"]
    for script in re.findall(r"jobs/slurm/\S+", scripts):
        assert (ROOT / script).exists()
    joined, sharded = (
        pq.read_table(f"{name}.parquet").select(["id", "completion"])
        for name in ("joined", "sharded")
    )
    assert isinstance(joined, pa.Table)
    assert joined.equals(sharded)


def test_ray_s_flags_are_right() -> None:
    """What it does on a cluster: test_ray.py."""
    ((language, line),) = blocks("Ray")
    assert language == "ray"
    program, group, name, *words = shlex.split(line)
    command = cli.get_command(click.Context(cli), group)
    assert isinstance(command, click.Group)
    given = command.commands[name].make_context(program, words, obj=False)
    assert given.params["shards"] == 32


def test_a_store_is_read_and_written(s3: Proxy) -> None:
    stories()
    client = clients.s3_session().client("s3", endpoint_url=s3.environment()["AWS_ENDPOINT_URL"])
    client.upload_file("stories.jsonl", "bucket", "stories.jsonl")
    play("S3 and other stores", *ECHO)
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_a_notebook_gets_rows_as_they_finish(capsys: pytest.CaptureFixture[str]) -> None:
    stories()
    play("Notebooks")
    told = capsys.readouterr().out
    assert all(f"\n{n} " in f"\n{told}" for n in range(3))
    assert "2 of 2" in told
