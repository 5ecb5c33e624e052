"""`batchgen bench` reports what it promises, and its floor is one."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny_models import tiny_model

from batchgen.cli.bench import bench
from batchgen.cli.preview import preview
from batchgen.engine.run.echo import EchoEngine
from batchgen.engine.weights import weigh
from batchgen.errors import InvalidDataError, UsageError
from batchgen.interpreter import tuned_interpreter
from batchgen.report import bench_session
from batchgen.report.bench import run_work
from batchgen.report.floor import ModelSize, floor_seconds
from batchgen.report.page.batching import Lane, lanes_text
from batchgen.report.page.slots import Bar
from batchgen.report.peer_results import PeerResults
from batchgen.report.workloads import WorkItem, from_lengths

LENGTHS = [(5, 12), (9, 4), (3, 8)]


def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *flags: str, weights: bool = True
) -> dict[str, Any]:
    monkeypatch.setattr("batchgen.report.workloads.seed6", lambda **_: from_lengths(LENGTHS, 90))
    monkeypatch.setitem(
        bench_session.measure_ceilings.__globals__, "_fastest", lambda *_: 1e-3
    )  # what a machine can do is not under test
    monkeypatch.setattr(
        "batchgen.report.workloads.WORKLOADS", {"seed6": lambda **_: from_lengths(LENGTHS, 90)}
    )
    tiny_model("llama").save_pretrained(tmp_path)
    if not weights:
        (tmp_path / "model.safetensors").unlink()
    arguments = ["--workload", "seed6", "--model", str(tmp_path), "--device", "cpu", *flags]
    result = CliRunner().invoke(bench, [*arguments, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(result.stdout) == report
    return report


def test_everything_is_reported_and_agrees(monkeypatch: Any, tmp_path: Path) -> None:
    peer = tmp_path / "peer.txt"
    peer.write_text(
        'INFO {loading}\nRESULT {"peer": "other 1.0", "work": "seed6.json", "out_tok_s": 0.25}\n'
        'RESULT {"peer": "other 1.0", "work": "seed6.json", "out_tok_s": 0.5}\n'
        '{"workload": "seed6", "sampling": "mixed", "output_tokens_per_s": 9}\n'
    )
    saved = ("--save-workloads", str(tmp_path / "saved"), "--peer", str(peer))
    report = run(monkeypatch, tmp_path, "--repeats", "2", "--static-batch", "2", *saved)
    work = json.loads((tmp_path / "saved" / "seed6.json").read_text())
    assert [(len(w["prompt_token_ids"]), w["max_tokens"]) for w in work] == LENGTHS
    assert report["results"][0]["peer"] == "other 1.0"
    rate = report["results"][0]["output_tokens_per_s"]
    assert report["results"][0]["ratio"] == round(rate / 0.5, 3), "its best run counts"
    assert "ratio" not in report["results"][1]
    assert report["first_token_of_command_s"] > report["load_s"] > 0
    assert report["warm_up_s"] > 0
    assert report["peak_memory_bytes"] > 1 << 20
    own, static = report["results"]
    assert (own["prompt_tokens"], own["output_tokens"]) == (17, 24)
    rounded = 0.01 + 1e-4 / own["wall_s"]  # four digits of some milliseconds
    assert own["output_tokens_per_s"] == pytest.approx(24 / own["wall_s"], rel=rounded)
    assert own["total_tokens_per_s"] == pytest.approx(41 / own["wall_s"], rel=rounded)
    assert own["floor_share"] == pytest.approx(own["floor_s"] / own["wall_s"], abs=1e-2)
    assert 1 <= own["mean_live_seqs"] <= 3
    assert (own["preemptions"], own["runs"]) == (0, 2)
    assert "static batches of 2" in static["engine"]
    assert static["output_tokens_per_s"] == pytest.approx(24 / static["wall_s"], rel=0.01)
    module = tiny_model("llama")
    weights = sum(p.nbytes for p in module.parameters()) - module.model.embed_tokens.weight.nbytes
    assert report["weight_bytes"] == weights, "weights that were packed are counted all the same"


def test_a_shape_alone_is_measured_with_random_weights(monkeypatch: Any, tmp_path: Path) -> None:
    flags = ("--load-format", "dummy", "--static-batch", "0", "--repeats", "1")
    (row,) = run(monkeypatch, tmp_path, *flags, weights=False)["results"]
    assert row["output_tokens_per_s"] > 0


def test_the_collector_is_as_in_a_job_while_an_engine_is_measured(
    monkeypatch: Any, tmp_path: Path
) -> None:
    seen: list[tuple[int, int, int]] = []

    def noting(*given: Any) -> Any:
        seen.append(gc.get_threshold())
        return run_work(*given)

    monkeypatch.setattr(bench_session, "run_work", noting)
    before = gc.get_threshold()
    run(monkeypatch, tmp_path, "--static-batch", "0", "--repeats", "1")
    assert gc.get_threshold() == before
    with tuned_interpreter(short_turns=False):
        assert set(seen) == {gc.get_threshold()} != {before}


def test_a_baseline_that_fails_costs_nothing(monkeypatch: Any, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(bench_session, "load_baseline", broken)
    report = run(monkeypatch, tmp_path, "--repeats", "1")
    assert [row["engine"] for row in report["results"]] == ["batchgen"]
    assert "no such kernel" in report["static_error"]


def test_real_rows_are_measured_with_their_own_prompts_and_sampling(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Name the sea.", "max_tokens": 5, "temperature": 0.7, "top_p": 0.9},
        {"prompt": "Name a hill.", "max_tokens": 4, "n": 2, "temperature": 1.0},
        {"prompt": "Name it.", "max_tokens": 3, "stop": ["."]},
        {"prompt": 5},
        {"prompt": "A or B?", "choices": ["A", "B"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--in", str(path), "--as-chat", "--system", "Answer in one word. " * 20, "--device",
             "cpu", "--repeats", "1", "--static-batch", "0"]  # fmt: skip
    saved = tmp_path / "saved"
    done = CliRunner().invoke(bench, [*flags, "--save-workloads", str(saved)])
    assert done.exit_code == 0, done.output
    work = json.loads((saved / "input.json").read_text())
    assert [(item["max_tokens"], item.get("sampling")) for item in work] == [
        (5, {"temperature": 0.7, "top_p": 0.9}), (4, {"temperature": 1.0}),
        (4, {"temperature": 1.0}), (3, None),
    ]  # fmt: skip
    expected = chats(path, "Answer in one word. " * 20)
    assert [item["prompt_token_ids"] for item in work] == [expected[i] for i in (0, 1, 1, 2)]
    result = json.loads(done.stdout)["results"][0]
    assert result["output_tokens"] == 5 + 4 + 4 + 3
    assert result["cached_tokens"] > 64, "the instruction that all of them share"
    for words in ("left out: 1 row in error", "1 row that choose", "1 sample may end early"):
        assert words in done.stderr


def chats(path: Path, system: str) -> list[list[int]]:
    """The prompts that `preview` shows."""
    flags = ["--in", str(path), "--as-chat", "--system", system, "--json", "-n", "3"]
    shown = CliRunner().invoke(preview, flags).stdout.splitlines()
    return [json.loads(line)["token_ids"] for line in shown]


@pytest.mark.parametrize("flags", [["--choices", "yes,no"], ["--score"]])
def test_rows_of_which_none_generates_are_told_as_that(tmp_path: Path, flags: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Is it late?"}\n{"prompt": "Is it early?"}\n')
    done = CliRunner().invoke(bench, ["--in", str(path), "--device", "cpu", *flags])
    assert isinstance(done.exception, InvalidDataError)
    assert done.exception.message.startswith("2 rows choose or score")
    assert "batchgen run" in str(done.exception.hint)


def test_live_sequences_are_counted_over_time() -> None:
    _, completions = run_work(EchoEngine(), from_lengths(LENGTHS))
    assert [len(done.token_ids) for done in completions] == [5, 4, 3]


def test_the_floor_adds_up() -> None:
    work = [WorkItem([0] * 10, 4), WorkItem([0] * 20, 2)]
    size = ModelSize(active_parameters=1000, weight_bytes=2000, kv_bytes_per_token=8)
    kv_reads = 4 * 10 + 4**2 / 2 + 2 * 20 + 2**2 / 2
    expected = 4 * 2000 / 1e6 + kv_reads * 8 / 1e6 + 2 * 1000 * 30 / 1e9
    assert floor_seconds(work, size, 1e6, 1e9) == pytest.approx(expected)


def test_weights_count_what_a_token_meets() -> None:
    module = tiny_model("mixtral", tie_word_embeddings=False)
    every = sum(p.numel() for p in module.parameters()) - module.model.embed_tokens.weight.numel()
    experts = sum(p.numel() for p in module.parameters() if p.ndim == 3)
    found = weigh(module)
    assert found.num_bytes == 4 * every
    assert found.active_parameters == every - experts // 2, "two of four experts"
    assert weigh(module.to(torch.bfloat16)).num_bytes == 2 * every
    tied = tiny_model("llama", tie_word_embeddings=True)
    assert weigh(tied).num_bytes == sum(p.nbytes for p in tied.parameters())


@pytest.mark.parametrize("text", ["", "no JSON\n", '{"workload": "nano"}\n', "[1]\n", '{"a'])
def test_a_file_without_a_peers_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "peer.json").write_text(text)
    with pytest.raises(InvalidDataError, match="has no result"):
        PeerResults.read(tmp_path / "peer.json")


def test_an_own_report_is_a_peers_results_too(tmp_path: Path) -> None:
    own = {"workload": "nano", "engine": "batchgen", "sampling": "mixed"}
    report = {"device": "cpu", "results": [{**own, "output_tokens_per_s": 4.0}]}
    (tmp_path / "peer.json").write_text(json.dumps(report))
    rows = [{**own, "output_tokens_per_s": 6.0}, {**own, "sampling": "filters"}]
    PeerResults.read(tmp_path / "peer.json").compare(rows)
    assert [row.get("ratio") for row in rows] == [1.5, None]


def test_static_batches_are_measured_beside_continuous_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    flags = ("--static", "--slots", "2", "--dtype", "float32", "--to", str(page))
    report = run(monkeypatch, tmp_path, *flags)
    ways = {row["way"]: row for row in report["results"]}
    assert list(ways) == ["continuous", "static", "padded", "generate"]
    assert ways["continuous"]["ratio"] == 1.0
    assert all(row["wall_s"] > 0 and row["slots"] == 2 for row in ways.values())
    assert report["equal_tokens"] == {"seed6": True}
    text = page.read_text(encoding="utf-8")
    assert [f'id="slots-0-{way}"' in text for way in ways] == [True, True, True, False]
    assert "<script" not in text


def test_a_picture_shows_which_slot_was_busy_when() -> None:
    bars = [Bar(0, 0.0, 1.0, 4.0), Bar(1, 0.0, 2.0, 2.0), Bar(1, 3.0, 3.0, 4.0)]
    title, heading, *lines = lanes_text("six", [Lane("static", 4.0, bars)])
    assert (title, heading) == ("six", "  static, 4.00 s")
    assert lines == ["    " + "░" * 16 + "█" * 48, "    " + "░" * 32 + " " * 16 + "█" * 16]


@pytest.mark.parametrize(
    ("flags", "named"),
    [(("--to", "x.html"), "--to"), (("--slots", "2"), "--slots"),
     (("--static", "--sampling", "filters"), "--sampling"),
     (("--workload", "nano", "--temperature", "1"), "--temperature"),
     (("--as-chat",), "--as-chat")],
)  # fmt: skip
def test_a_flag_that_would_be_ignored_is_refused(flags: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(bench, [*flags])
    assert isinstance(result.exception, UsageError)
    assert named in str(result.exception)
