"""Forty mistakes of a newcomer: what each prints, and that it says what to do next."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen import InputSpec, JobSpec
from batchgen.cli.command import main

GOOD = '{"prompt": "a", "topic": "x"}\n{"prompt": "b", "topic": "y"}\n'
OPENAI = (
    '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
    '"body": {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}}\n'
)
FILES = {
    "good.jsonl": GOOD,
    "text.jsonl": '{"text": "a"}\n',
    "table.jsonl": "id,prompt\n1,hello\n2,there\n",
    "pretty.jsonl": '{\n "prompt": "x"\n}\n',
    "lines.txt": "Why?\nHow?\n",
    "empty.jsonl": "",
    "openai.jsonl": OPENAI,
    "typo.jsonl": '{"prompt": "a", "params": {"max_token": 3}}\n',
    "cold.jsonl": '{"prompt": "a", "temperature": -1}\n',
    "number.jsonl": '{"prompt": 3}\n',
    "both.jsonl": '{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}\n',
    "list.jsonl": '["a"]\n["b"]\n',
    "twice.jsonl": '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n',
    "roles.jsonl": '{"messages": [{"role": "user"}]}\n',
    "typo.j2": "{{ topc }}",
    "mixed/a.jsonl": GOOD,
    "mixed/b.csv": "prompt\nx\n",
    "tables/b.csv": "prompt\nx\n",
    "no_rows/readme.md": "x",
    "quotes.jsonl": "{'prompt': 'a'}\n",
    "renamed.parquet": GOOD,
    "samples.jsonl": '{"prompt": "a", "n": 3}\n',
    "nan.jsonl": '{"prompt": "a", "score": NaN}\n',
    "commas.jsonl": '{"prompt": "a"},\n{"prompt": "b"},\n',
    "wrapped.json": '{"my data": [{"prompt": "a"}]}',
    "claude.jsonl": '{"params": {"messages": [{"role": "user", "content": "a"}]}}\n',
    "nested/day=1/rows.jsonl": GOOD,
    "columns.json": '{"prompt": {"0": "a", "1": "b"}, "id": {"0": 1, "1": 2}}',
    "vectors.jsonl": OPENAI.replace("/v1/chat/completions", "/v1/embeddings"),
    "rerank.jsonl": OPENAI.replace("/v1/chat/completions", "/v1/rerank"),
}
RUN, ENGINE = ("run", "-o", "out.parquet"), ("--engine", "echo")
MISTAKES: dict[str, tuple[str, int, str]] = {
    # what was typed after `batchgen run -o out.parquet --engine echo -i` -> exit code, what is said
    "a prompt column that no row has": (
        "good.jsonl --prompt-column text",
        65,
        "--prompt-column text: no row has it; the rows have prompt, topic",
    ),
    "an id column that no row has": (
        "good.jsonl --id-column uid",
        65,
        "--id-column uid: no row has it; the rows have prompt, topic",
    ),
    "a messages column that no row has": (
        "good.jsonl --messages-column chat",
        65,
        "the rows have prompt, topic",
    ),
    "a slip in --keep-columns": (
        "good.jsonl --keep-columns topc",
        65,
        r"--keep-columns topc: no row has it.*\n  next: did you mean 'topic'\?",
    ),
    "no prompt column under its usual name": (
        "text.jsonl",
        3,
        r'missing_prompt: .*\["text"\]; give --prompt-column text\n    next: name the column',
    ),
    "CSV under another name": ("table.jsonl", 65, r"looks like CSV.*\n  next: name it \.csv"),
    "pretty-printed JSON": ("pretty.jsonl", 65, r"JSON over several lines.*\n  next: jq -c"),
    "plain lines of text": ("lines.txt", 65, r"lines.txt is plain text.*\n  next: jq -Rc"),
    "a table by columns": ("columns.json", 3, r"next: it holds columns, .*orient='records'"),
    "embeddings": ("vectors.jsonl", 3, "next: .* no embeddings"),
    "pairs to rank": ("rerank.jsonl", 3, "next: make a row of each pair, .*--choices yes,no"),
    "rows that are lists": ("list.jsonl", 3, "a row is a JSON object, not a list"),
    "an empty file": ("empty.jsonl", 0, r"no rows: nothing was generated \(is it the one"),
    "a file that is not there": ("goof.jsonl", 66, r"does not exist\n  next: . holds"),
    "a pattern that matches nothing": ("'*.nope'", 66, r"no file matches .*\n  next: quote"),
    "standard input": ("-", 66, "write its rows to a file first"),
    "a folder with tables beside": ("mixed", 0, r"1 table is left out; .*--in 'mixed/\*.csv'"),
    "a folder of tables": ("tables", 66, r"next: it holds b.csv: name tables with a pattern"),
    "a folder without rows": ("no_rows", 66, "look into subfolders"),
    "an OpenAI file of another model": (
        "openai.jsonl --served-model-name mine",
        3,
        r'model_mismatch: body.model "gpt-4o".*\n    next: --ignore-model',
    ),
    "a parameter's name misspelt in a row": ("typo.jsonl", 3, "did you mean max_tokens"),
    "a parameter out of range in a row": ("cold.jsonl", 3, "a number from 0 to 100, not -1"),
    "a prompt that is a number": ("number.jsonl", 3, "prompt must be a string, not 3"),
    "a prompt and messages": ("both.jsonl", 3, "more than one of prompt, messages"),
    "an id twice": ("twice.jsonl", 3, r"twice.jsonl:2: duplicate_id.*\n.*--id-column"),
    "a message without content": ("roles.jsonl", 3, r"roles.jsonl:1: \w+: .*content"),
    "a column misspelt in a template": (
        "good.jsonl --template typo.j2",
        3,
        "no column 'topc'; did you mean 'topic'",
    ),
    "a template that is not there": ("good.jsonl --template no.j2", 2, "no.j2: cannot be read"),
    "samples without a temperature": (
        "good.jsonl --n 3",
        0,
        "--n 3 at temperature 0 gives equal samples: give --temperature",
    ),
    "samples that a row asks for without a temperature": (
        "samples.jsonl",
        0,
        "samples.jsonl:1: n 3 at temperature 0 gives equal samples: give a temperature",
    ),
    "--system for plain prompts": (
        "good.jsonl --system 'Be brief.'",
        0,
        "a plain prompt gets no --system; --as-chat makes it a chat",
    ),
    "another program's flag for the batch": (
        "good.jsonl --batch-size 8",
        2,
        "Did you mean '?--max-num-seqs",
    ),
    "transformers' name of a flag": (
        "good.jsonl --max_new_tokens 8",
        2,
        "Did you mean '?--max-tokens",
    ),
    "a flag's value that is no number": (
        "good.jsonl --temperature hot",
        2,
        r"'hot' is not a valid.*\n  next: batchgen run --help-all",
    ),
    "no token at all": ("good.jsonl --max-tokens 0", 2, "0 is not in the range"),
    "a shard past the last": ("good.jsonl --shard 4/4", 2, "--shard 0/4 for the first"),
    "words for --max-failures": ("good.jsonl --max-failures many", 2, "a share such as"),
    "words for --time-limit": ("good.jsonl --time-limit soon", 2, "60s, 10m, 2h"),
    "a device that is none": ("good.jsonl --device gpu", 2, "use --device auto, cpu"),
    "JSON that is none in a flag": (
        "good.jsonl --chat-template-kwargs '{a'",
        2,
        "write a JSON object, such as",
    ),
    "Python's dicts for JSON": (
        "quotes.jsonl",
        3,
        "quotes.jsonl:1: invalid_json: Python's quotes.*json.dumps",
    ),
    "lines of JSON named as Parquet": (
        "renamed.parquet",
        65,
        r"holds JSON, not Parquet\n  next: mv renamed.parquet renamed.jsonl",
    ),
    "Parquet whose prompts are numbers": (
        "numbers.parquet",
        65,
        r"'prompt' holds int64, not strings\n  next: convert the column, or name another",
    ),
    "an input named twice": (
        "good.jsonl -i good.jsonl",
        0,
        "good.jsonl is named 2 times: so often its rows are computed",
    ),
    "a file in place of the checkpoint folder": (
        "good.jsonl --checkpoint-dir text.jsonl",
        73,
        r"cannot write the folder text.jsonl.*\n  next: a file is in its way: name another",
    ),
    "a schema for the whole job": (
        "good.jsonl --json-schema schema.json",
        2,
        "Did you mean a row's response_format",
    ),
    "a flag without its value": ("good.jsonl --stop", 2, r"an argument.*\n  next: batchgen"),
    "a folder for --summary": (
        "good.jsonl --summary mixed",
        2,
        r"'mixed' is a directory.*\n  next: batchgen run --help-all",
    ),
    "--retry and --overwrite": (
        "good.jsonl --retry failed --overwrite",
        2,
        "keeps finished rows and --overwrite discards them",
    ),
}
MISTAKES |= {
    "Latin-1": ("latin.jsonl", 3, r"byte 16 is not UTF-8\n    next: iconv -f LATIN1"),
    "NaN": ("nan.jsonl", 3, r"NaN is not a JSON number\n    next: write null"),
    "commas between lines": ("commas.jsonl", 3, r"more text after .*\n    next: .*sed 's/,\$//'"),
    "all rows in one object": ("wrapped.json", 3, r"""jq -c '\."my data"\[\]' FILE"""),
    "a batch for Anthropic's API": ("claude.jsonl", 3, r"jq -c '\.params \+ del\(\.params\)'"),
    "a folder of folders": ("nested", 66, r"next: write 'nested/\*\*/\*\.jsonl'"),
    "a folder of folders of Parquet": ("deep", 66, r"next: write 'deep/\*\*/\*\.parquet'"),
}
OTHERS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a command misspelt": (("rnu",), 2, "Did you mean 'run'"),
    "no input": (RUN, 2, r"Missing option '--in'.*\n  next: batchgen run --in prompts.jsonl"),
    "no output": (("run", "-i", "good.jsonl"), 2, "Missing option '--out'"),
    "an output that is a folder": (
        ("run", "-i", "good.jsonl", "-o", "results/", *ENGINE),
        2,
        r"--out results/ names a folder.*\n  next: name it, such as results/out.parquet",
    ),
    "standard output": (
        ("run", "-i", "good.jsonl", "-o", "-", *ENGINE),
        73,
        r"cannot go to stdout\n  next: name a file.*batchgen export",
    ),
    "an output in another format": (
        ("run", "-i", "good.jsonl", "-o", "out.csv", *ENGINE),
        2,
        r"\.csv is another format\n  next: name it out.parquet; `batchgen export`",
    ),
    "the input as output": (
        ("run", "-i", "good.jsonl", "-o", "good.jsonl", *ENGINE),
        73,
        "is the input good.jsonl",
    ),
    "an address that is not served": (
        ("run", "-i", "good.jsonl", "-o", "ftp://x/y.parquet", *ENGINE),
        2,
        "ftp:// is not a place.*\n  next: name a file",
    ),
    "a model that is not there": (
        (*RUN, "-i", "good.jsonl", "--model", "./nope"),
        2,
        r"Model not found.*\n  next: Name a model folder",
    ),
    "an output below a file": (
        ("run", "-i", "good.jsonl", "-o", "text.jsonl/out.parquet", *ENGINE),
        73,
        r"cannot write the folder text.jsonl/out.parquet.ckpt.*\n  next: a file is in its way",
    ),
    "an output where nothing can be written": (
        ("run", "-i", "good.jsonl", "-o", "/proc/out.parquet", *ENGINE),
        73,
        r"cannot write the folder /proc.*\n  next: free space or give write permission",
    ),
    "a GPU that is not there": (
        (*RUN, "-i", "good.jsonl", "--device", "cuda:77"),
        2,
        r"'cuda:77' is not there.*\n  next: .*--device cpu",
    ),
    "a validation of nothing": (("validate",), 2, r"next: batchgen validate --in prompts.jsonl"),
    "a preview of nothing": (("preview",), 2, r"next: batchgen preview --in prompts.jsonl"),
    "a file without --in": (
        (*RUN, "-i", "my", "good.jsonl"),
        2,
        r"extra argument \(good.jsonl\)\n  next: give each file with --in; quote a pattern",
    ),
    "a flag to resume": (
        (*RUN, "-i", "good.jsonl", "--resume"),
        2,
        r"'--resume'. Did you mean the same command without it",
    ),
    "a report of other rows": (
        ("report", "numbers.parquet"),
        66,
        r"is no output of batchgen; its columns are prompt\n  next: give an output",
    ),
    "a report of lines that no run wrote": (
        ("report", "good.jsonl"),
        66,
        r"good.jsonl.ckpt/output.parquet is not there\n  next: give an output",
    ),
    "a look into other rows": (
        ("inspect", "numbers.parquet"),
        66,
        r"is no output of batchgen; its columns are prompt\n  next: give an output",
    ),
    "an export of other rows": (
        ("export", "numbers.parquet", "--format", "openai", "--to", "x.jsonl"),
        66,
        r"is no output of batchgen; its columns are prompt\n  next: give an output",
    ),
    "the status of nothing": (("status", "nope.parquet"), 66, "next: check the name"),
    "a merge of nothing": (("merge", "nope.parquet"), 66, "next: run `batchgen run` first"),
    "a diff with nothing": (
        ("diff", "nope.parquet", "b.parquet"),
        66,
        r"nope.parquet is not there\n  next: give an output",
    ),
    "a command of another program": (("generate",), 2, r"next: batchgen --help lists"),
    "a status of no file": (("status",), 2, "next: batchgen status --help shows an example"),
    **{
        f"a look at a run that is not done: {words[0]}": (
            (*words, "stopped.parquet"),
            66,
            r"stopped.parquet is not written yet.*\n  next: run the same command again",
        )
        for words in (
            ("report",),
            ("inspect",),
            ("diff", "numbers.parquet"),
        )
    },
}
ALL = OTHERS | {
    name: ((*RUN, *ENGINE, "-i", *shlex.split(words)), code, said)
    for name, (words, code, said) in MISTAKES.items()
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    pq.write_table(pa.table({"prompt": [1, 2]}), tmp_path / "numbers.parquet")
    (tmp_path / "stopped.parquet.ckpt").mkdir()
    (tmp_path / "stopped.parquet.ckpt/manifest.json").write_text("{}")
    (tmp_path / "deep/day=1").mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "deep/day=1/rows.parquet")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "café"}\n'.encode("latin-1"))
    monkeypatch.chdir(tmp_path)


def test_there_are_forty() -> None:
    assert len(ALL) >= 40


@pytest.mark.parametrize("name", ALL)
def test_a_mistake_is_told_with_what_to_do_next(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code, said = ALL[name]
    assert main(list(words)) == code
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert "Traceback" not in error


@pytest.mark.parametrize("mend", ["the flag", "the file"])
def test_a_job_without_one_good_row_has_nothing_to_protect(
    mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job = [*RUN, *ENGINE, "-i", "text.jsonl"]
    assert main(job) == 3
    if mend == "the flag":
        job += ["--prompt-column", "text"]
    else:
        Path("text.jsonl").write_text(GOOD)
    assert main(job) == 0
    assert "has no completion: it is replaced" in capsys.readouterr().err
    assert set(pq.read_table("out.parquet")["status"].to_pylist()) == {"ok"}
    assert main(job) == 0  # nothing to do


def test_an_empty_input_that_was_filled_meanwhile_is_run_with_any_setting() -> None:
    job = [*RUN, *ENGINE, "-i", "empty.jsonl"]
    assert main(job) == 0
    Path("empty.jsonl").write_text(GOOD)
    assert main([*job, "--max-tokens", "3"]) == 0
    assert pq.read_table("out.parquet").num_rows == 2


def test_a_job_with_a_good_row_is_protected_from_another_flag(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("some.jsonl").write_text(GOOD + '{"text": "c"}\n')
    job = [*RUN, *ENGINE, "-i", "some.jsonl"]
    assert main(job) == 3
    before = Path("out.parquet").read_bytes()
    assert main([*job, "--max-tokens", "3"]) == 4
    assert Path("out.parquet").read_bytes() == before
    assert "--overwrite" in capsys.readouterr().err


def test_a_variable_that_is_nearly_a_flags_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BATCHGEN_MAXTOKENS", "3")
    monkeypatch.setenv("BATCHGEN_SOMETHING_ELSE", "3")
    assert main([*RUN, *ENGINE, "-i", "good.jsonl"]) == 0
    said = capsys.readouterr().err
    assert "did you mean BATCHGEN_MAX_TOKENS?" in said
    assert "SOMETHING" not in said


def test_another_model_is_told_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, *ENGINE, "-i", "good.jsonl"]) == 0
    manifest = Path("out.parquet.ckpt/manifest.json")
    recorded = json.loads(manifest.read_text())
    recorded["fingerprint"]["model.identity"] = "0" * 64
    recorded["facts"]["model"] = "Org/Other-Model"
    manifest.write_text(json.dumps(recorded))
    assert main([*RUN, *ENGINE, "-i", "good.jsonl"]) == 4
    said = capsys.readouterr().err
    assert "model: was Org/Other-Model; its files are not those of this one" in said
    assert "0" * 64 not in said


def test_a_job_in_python_takes_text_for_its_paths() -> None:
    spec = JobSpec(InputSpec("good.jsonl"), out="x.parquet")  # type: ignore[arg-type]
    assert spec.out == Path("x.parquet")
    assert spec.input.inputs == ("good.jsonl",)
