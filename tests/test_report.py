"""`batchgen report`: one page that is whole, true to the file, small, quick and safe to open."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from echo_runs import environment, prompts, write_rows

from batchgen.cli.command import main
from batchgen.job.schema import BASE_SCHEMA
from batchgen.report.page.clock import TimeLine, time_line
from batchgen.report.page.figures import figures_of
from batchgen.report.page.html import embedded_figures, page_of
from batchgen.report.page.reconcile import reconciled
from batchgen.report.page.slots import slots_of
from batchgen.report.page.table import read_table
from batchgen.report.page.text import sparkline

ROWS = 100_000
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def job_of(path: Path, rows: int) -> Path:
    """A job of two runs an hour apart on 256 slots, one row in a hundred failed."""
    rng = np.random.default_rng(0)
    failed = np.arange(rows) % 100 == 7
    length = np.minimum(1024, 1 + rng.exponential(150, rows)).astype(np.int32)
    began = np.arange(rows) / 256 * 3.0
    decode = length * 0.02
    second = np.arange(rows) >= rows // 2
    came = 1.7e9 + np.maximum(began - 30, 0) + 3600 * second
    queue = np.minimum(began, 30.0)
    values = {
        "index": np.arange(rows),
        "sample": np.zeros(rows, np.int32),
        "id": [f"<{n}>" for n in range(rows)],
        "status": np.where(failed, "error", "ok"),
        "finish_reason": pa.array(np.where(length >= 1024, "length", "stop"), mask=failed),
        "error_code": pa.array(np.where(failed, "invalid_row", ""), mask=~failed),
        "error_message": pa.array(np.where(failed, EVIL, ""), mask=~failed),
        "prompt_tokens": pa.array(length[::-1].copy(), mask=failed),
        "completion_tokens": pa.array(length, mask=failed),
        "cached_tokens": pa.array(length // 3, mask=failed),
        "queue_s": pa.array(queue, mask=failed),
        "prefill_s": pa.array(np.full(rows, 0.05), mask=failed),
        "decode_s": pa.array(decode, mask=failed),
        "latency_s": pa.array(queue + 0.05 + decode, mask=failed),
        "preemptions": np.zeros(rows, np.int32),
        "attempt": np.ones(rows, np.int32),
        "started_at": pa.array((came * 1e6).astype(np.int64), mask=failed),
        "run_id": np.where(second, "second", "first"),
    }
    filled = {name: pa.array(column) for name, column in values.items()}
    columns = [
        filled[one.name].cast(one.type) if one.name in filled else pa.nulls(rows, one.type)
        for one in BASE_SCHEMA
    ]
    pq.write_table(pa.Table.from_arrays(columns, names=BASE_SCHEMA.names), path)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job_of(tmp_path_factory.mktemp("report") / "out.parquet", ROWS)


@pytest.fixture(scope="module")
def page(large: Path) -> str:
    start = time.process_time()
    assert main(["report", str(large)]) == 0
    assert time.process_time() - start < 3.0
    return Path(f"{large}.html").read_text(encoding="utf-8")


class Opened(HTMLParser):
    """Elements in their order; whatever is not closed in turn is a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "path", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag


def test_the_page_is_small_whole_and_needs_nothing_else(page: str) -> None:
    assert len(page.encode()) < 500_000
    reader = Opened()
    reader.feed(page)
    assert reader.open == []
    tags = [tag for tag, _ in reader.found]
    assert tags.count("svg") == 9
    assert tags.count("script") == 1  # the figures, as data
    assert not {"img", "iframe", "object", "audio", "video"} & set(tags)
    for tag, attributes in reader.found:
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:,").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page


def test_what_rows_say_is_text_and_nothing_more(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert "<img" not in page


def test_every_chart_is_named_and_reached_by_keyboard(page: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for text in charts:
        chart = ElementTree.fromstring(text)
        assert chart.get("tabindex") == "0"
        assert chart.get("role") == "img"
        named = {one.get("id"): one for one in chart.iter() if one.get("id")}
        for name in (chart.get("aria-labelledby") or "").split():
            assert named[name].text
        drawn = [one.get("d") or "" for one in chart.iter("path")]
        assert any(len(path) > 20 for path in drawn), text[:200]
    identifiers = re.findall(r'<svg id="([^"]+)"', page)
    assert len(set(identifiers)) == len(charts)


def test_resumes_stand_on_the_time_line(page: str) -> None:
    runs = embedded_figures(page)["runs"]
    assert [run["run_id"] for run in runs] == ["first", "second"]
    assert runs[1]["begin"] == runs[0]["end"]
    assert runs[1]["at"] > runs[0]["at"]
    assert page.count("<title>resumed ") == 2  # in throughput and in live sequences


def test_check_finds_each_figure_in_the_file(
    page: str, large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(large), "--check"]) == 0
    said = capsys.readouterr().out
    assert int(said.split()[0]) > 25
    wrong = tmp_path / "wrong.html"
    wrong.write_text(page.replace('"completions":', '"completions":1', 1))
    assert main(["report", str(large), "--check", "--to", str(wrong)]) == 1
    assert "completions: " in capsys.readouterr().out


def test_the_figures_come_as_json_and_as_text(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(large), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["totals"]["failed"] == ROWS / 100
    assert figures["failures"][0]["samples"][0] == ["<7>", 7, EVIL]
    assert sum(figures["latencies"]["latency_s"]["counts"]) == figures["totals"]["completions"]
    assert main(["report", str(large), "--text"]) == 0
    said = capsys.readouterr().out
    assert "█" in said
    assert "resumed at " in said
    assert "static batches: up to" in said


def test_slots_are_those_of_static_batches_too() -> None:
    """Two slots, rows of 4, 1, 1, 2: one after the other they fit into 4; as pairs they take 6."""
    began, took = np.array([0.0, 0.0, 1.0, 2.0]), np.array([4.0, 1.0, 1.0, 2.0])
    line = TimeLine(began, np.full(4, 0.1, np.float32), began + took, np.ones(4, np.int32), ())
    slots = slots_of(line)
    assert slots.num_slots == 2
    assert [(bar.slot, bar.begin, bar.end) for bar in slots.bars] == [
        (0, 0.0, 4.0), (1, 0.0, 1.0), (1, 1.0, 2.0), (1, 2.0, 4.0),
    ]  # fmt: skip
    assert slots.static_seconds == 6.0
    assert [(bar.slot, bar.begin) for bar in slots.static_bars] == [
        (0, 0.0), (1, 0.0), (0, 4.0), (1, 4.0),
    ]  # fmt: skip


def test_a_small_real_job_has_its_report_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*prompts(20), "nope"])
    for name, flags in (("a.parquet", ()), ("b.jsonl", ()), ("c", ("--rows-per-file", "8"))):
        words = ["run", "-i", source, "-o", tmp_path / name, "--engine", "echo", *flags]
        assert main([str(word) for word in words]) == 3
        capsys.readouterr()
        assert main(["report", str(tmp_path / name), "--to", str(tmp_path / "page.html")]) == 0
        assert main(["report", str(tmp_path / name), "--check"]) == 0
        figures = embedded_figures((tmp_path / "page.html").read_text())
        assert figures["totals"]["rows"] == 21
        assert figures["provenance"]["settings"]["engine"] == "echo"


def test_what_is_no_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    assert main(["report", str(tmp_path / "other.parquet")]) == 66
    assert main(["report", str(tmp_path / "none.parquet")]) == 66
    assert "give an output of `batchgen run`" in capsys.readouterr().err


def test_the_page_never_replaces_the_output_that_it_is_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "in.jsonl", prompts(2))
    out = tmp_path / "o.parquet"
    assert main(["run", "-i", str(source), "-o", str(out), "--engine", "echo", "-q"]) == 0
    (tmp_path / "link.html").symlink_to(out)
    for page in (out, tmp_path / "link.html"):
        assert main(["report", str(out), "--to", str(page)]) == 73
        assert "is the output itself" in capsys.readouterr().err
    assert pq.read_table(out).num_rows == 2


def test_a_job_without_one_completion_has_a_report(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", ["{nope", "{nope"])
    out = str(tmp_path / "o.parquet")
    assert main(["run", "-i", str(source), "-o", out, "--engine", "echo"]) == 3
    assert main(["report", out]) == 0
    assert main(["report", out, "--check"]) == 0
    assert main(["report", out, "--text"]) == 0


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """What Arrow takes its memory from meanwhile, which counts it."""
    pool = pa.proxy_memory_pool(usual := pa.default_memory_pool())
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(usual)


def test_a_row_takes_a_few_numbers_of_memory(large: Path, pool: pa.MemoryPool) -> None:
    """An output may have ten million; their texts alone would be gigabytes."""
    table = read_table(large)
    assert pool.bytes_allocated() < ROWS
    figures = embedded_figures(page_of(figures_of(table)))
    tracemalloc.start()  # of numpy: what is to be imported is there
    time_line(table)
    _, columns = tracemalloc.get_traced_memory()
    figures_of(table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert columns < 30 * ROWS + 12_000_000  # and some batches' columns
    assert peak < 45 * ROWS + 25_000_000  # and Python's numbers of 65,536 rows
    assert all(one.agrees for one in reconciled(figures, table))
    assert pool.max_memory() < 100 * ROWS


def test_a_line_of_blocks_shows_means() -> None:
    assert sparkline([0.0, 8.0, 4.0], 3) == " █▄"
    assert len(sparkline(list(range(120)), 55)) <= 55


def test_it_imports_no_torch(tmp_path: Path) -> None:
    out = job_of(tmp_path / "o.parquet", 200)
    code = (
        f"import sys; sys.argv[1:] = ['report', {str(out)!r}];"
        "import atexit; atexit.register(lambda: print(*sys.modules));"
        "from batchgen.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not {"torch", "transformers", "pandas"} & set(done.stdout.decode().split())
