"""What an address names, what is refused of it, and that no secret in it is said."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from batchgen.cli.command import main
from batchgen.errors import FingerprintMismatchError, InputUnreadableError, UsageError
from batchgen.job.input.source import SourceKind
from batchgen.job.input.sources import find_sources
from batchgen.job.stores import clients, failures
from batchgen.job.stores.places import place_of
from batchgen.job.stores.remote_find import _expression
from batchgen.job.stores.remote_path import RemotePath

ROWS = b"".join(json.dumps({"id": f"r{i}", "prompt": f"p{i}"}).encode() + b"\n" for i in range(50))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s3://bucket/a/out.parquet", "s3://bucket/a/out.parquet"),
        ("S3://bucket/a/", "s3://bucket/a"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("s3:/bucket/x", "s3://bucket/x"),
        ("gs://bucket/x.parquet", "gs://bucket/x.parquet"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("az://container/x", "az://container/x"),
        ("abfs://container/x", "az://container/x"),
    ],
)
def test_an_address_names_an_object(text: str, found: str) -> None:
    pytest.importorskip("obstore")
    assert isinstance(place_of(text), RemotePath)
    assert str(place_of(text)) == found


@pytest.mark.parametrize("text", ["out.parquet", "./s3/x", "C:/x", "ftp://h/x", "a:b"])
def test_other_names_stay_local(text: str) -> None:
    assert place_of(text) == Path(text)


@pytest.mark.parametrize(
    "text", ["s3://key:hidden@bucket/x", "s3://bucket/x?sig=hidden", "s3://", "gs://b/a//hidden"]
)
def test_an_address_with_a_login_or_a_query_is_refused_without_saying_it(text: str) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(UsageError) as refused:
        place_of(text)
    assert "hidden" not in f"{refused.value} {refused.value.hint}".replace("a//hidden", "")


@pytest.mark.parametrize("flag", ["--in", "--out"])
def test_without_the_extra_it_is_named_at_once(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        clients, "find_spec", lambda name: None if name == "obstore" else find(name)
    )
    (tmp_path / "in.jsonl").write_bytes(ROWS)
    named = {"--in": str(tmp_path / "in.jsonl"), "--out": str(tmp_path / "o.parquet")}
    named |= {flag: "s3://bucket/x.parquet"}
    words = [word for pair in named.items() for word in pair]
    assert main(["run", "--engine", "echo", *words]) == 2
    assert "pip install 'batchgen-llm[remote]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a/*.jsonl", "a/x.jsonl", True),
        ("a/*.jsonl", "a/b/x.jsonl", False),
        ("a/**/*.jsonl", "a/b/c/x.jsonl", True),
        ("a/**/*.jsonl", "a/x.jsonl", True),
        ("a/?[0-9].parquet", "a/x7.parquet", True),
        ("a/x.parquet*", "a/xyparquet", False),
    ],
)
def test_patterns_are_a_shell_s(pattern: str, key: str, matches: bool) -> None:
    assert (re.fullmatch(_expression(pattern), key) is not None) == matches


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_store_that_cannot_be_set_up_is_one_line(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No account, or a credentials file that is none."""
    pytest.importorskip("obstore")
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/does/not/exist.json")
    clients._clients.clear()
    assert main(["run", "--engine", "echo", "-i", f"{scheme}://b/x.jsonl", "-o", "o.parquet"]) == 66
    told = capsys.readouterr().err
    assert f"input {scheme}://b/x.jsonl: it cannot be set up" in told
    assert "Traceback" not in told


class Files(BaseHTTPRequestHandler):
    """Serves `content` by ranges to whoever has the login and the query."""

    content: ClassVar[dict[str, bytes]] = {}
    etag = '"v1"'
    ranges = True
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        name, _, query = self.path.partition("?")
        login = base64.b64encode(b"user:hidden").decode()
        Files.asked.append(self.headers.get("Range", ""))
        if (
            self.headers.get("Authorization") != f"Basic {login}"
            or query != "X-Amz-Signature=hidden"
        ):
            return self.answer(403, b"")
        data = Files.content.get(name)
        if data is None:
            return self.answer(404, b"")
        if not Files.ranges:
            return self.answer(200, data)
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.answer(206, data[first : last + 1], f"bytes {first}-{last}/{len(data)}")

    def answer(self, status: int, data: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("ETag", Files.etag)
        self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a web server with rows.jsonl; what is to follow is the query."""
    Files.content = {"/rows.jsonl": ROWS}
    Files.etag, Files.ranges, Files.asked = '"v1"', True, []
    monkeypatch.setattr(failures, "_PAUSES_S", (0.0,))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://user:hidden@127.0.0.1:{server.server_address[1]}/rows.jsonl?X-Amz-Signature=hidden"
    server.shutdown()
    server.server_close()


def test_rows_come_from_the_web_and_no_secret_stays(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    assert main(["run", "--engine", "echo", "-i", address, "-o", str(out)]) == 0
    assert pq.read_table(out)["completion"].to_pylist() == [f"p{i}" for i in range(50)]
    assert all(asked.startswith("bytes=") for asked in Files.asked)
    Files.etag = '"v2"'
    Files.content["/rows.jsonl"] = ROWS.replace(b"p3", b"q3")
    assert main(["run", "--engine", "echo", "-i", address, "-o", str(out)]) == 4
    told = capsys.readouterr()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "hidden" not in told.out + told.err
    assert b"hidden" not in stored


def test_a_file_of_the_web_that_changes_while_it_is_read_is_refused(address: str) -> None:
    (source,) = find_sources([address])
    assert source.kind is SourceKind.JSONL
    assert source.identity() == {
        "name": "rows.jsonl", "kind": "jsonl", "size": len(ROWS), "etag": "v1",
    }  # fmt: skip
    Files.etag = '"v2"'
    with pytest.raises(FingerprintMismatchError, match=r"rows\.jsonl changed while it was read"):
        source.open(1 << 16).read()


@pytest.mark.parametrize(
    ("change", "said"),
    [(("hidden@", "other@"), "access is denied"), (("rows", "none"), "not there"),
     (None, "sends no ranges")],
)  # fmt: skip
def test_a_file_of_the_web_that_cannot_be_read_is_told(
    address: str, change: tuple[str, str] | None, said: str
) -> None:
    if change is None:
        Files.ranges = False
    else:
        address = address.replace(*change)
    with pytest.raises(InputUnreadableError, match=said) as refused:
        find_sources([address])
    assert "hidden" not in f"{refused.value} {refused.value.hint}"
