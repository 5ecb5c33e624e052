"""Files of a dataset repository as input: found, read by ranges, and all of one commit."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from batchgen.errors import InputUnreadableError
from batchgen.job.input.source import SourceKind
from batchgen.job.input.sources import find_sources

SHA = "1" * 40
ROWS = b'{"prompt": "a"}\n{"prompt": "b"}\n'
FILES = {"data/a.jsonl": ROWS, "data/b.jsonl": ROWS, "README.md": b"x"}


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the hub for one public dataset, org/name."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        Hub.asked.append(f"{self.command} {path}")
        if path.startswith("/api/datasets/org/name/tree/"):
            below = path.partition(SHA)[2].strip("/")
            return self.answer(json.dumps(TREE[below]).encode())
        if path.startswith("/api/datasets/org/name"):
            return self.answer(json.dumps({"id": "org/name", "sha": SHA, "siblings": []}).encode())
        name = path.partition(f"/resolve/{SHA}/")[2]
        if name in FILES and path.startswith("/datasets/org/name/"):
            first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
            return self.answer(FILES[name][int(first) : int(last or 1 << 30) + 1], 206)
        self.answer(b"{}", 404)

    def do_POST(self) -> None:
        Hub.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        named = [name for name in FILES if name in body or name.replace("/", "%2F") in body]
        self.answer(json.dumps([entry(name) for name in named]).encode())

    do_HEAD = do_GET

    def answer(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", '"e"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def entry(name: str) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": f"oid-{name}"}


TREE = {
    "": [{"type": "directory", "path": "data", "oid": "oid-data"}, entry("README.md")],
    "data": [entry("data/a.jsonl"), entry("data/b.jsonl")],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import huggingface_hub.constants
    from huggingface_hub import HfFileSystem

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    Hub.asked.clear()
    HfFileSystem.clear_instance_cache()
    yield
    HfFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_files_of_a_dataset_are_read_at_one_commit(hub: None) -> None:
    found = find_sources(["hf://datasets/org/name/data/*.jsonl"])
    assert [source.name for source in found] == [
        "hf://datasets/org/name/data/a.jsonl", "hf://datasets/org/name/data/b.jsonl",
    ]  # fmt: skip
    assert {source.kind for source in found} == {SourceKind.JSONL}
    assert found[0].identity() == {
        "name": "a.jsonl", "kind": "jsonl", "size": len(ROWS), "etag": "oid-data/a.jsonl",
    }  # fmt: skip
    assert found[0].open(1 << 16).read() == ROWS
    assert not [asked for asked in Hub.asked if "/resolve/" in asked and SHA not in asked]


def test_a_file_that_a_dataset_does_not_have_is_told(hub: None) -> None:
    with pytest.raises(InputUnreadableError, match=r"hf://datasets/org/name/data/none\.jsonl"):
        find_sources(["hf://datasets/org/name/data/none.jsonl"])


def test_a_dataset_as_a_whole_stays_a_dataset() -> None:
    (source,) = find_sources(["hf://datasets/org/name"])
    assert source.kind is SourceKind.HUB
