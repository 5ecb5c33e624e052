"""Outputs on the Hugging Face hub: one commit, nothing of others replaced, no token told."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pyarrow.parquet as pq
import pytest
from echo_runs import prompts, write_rows

from batchgen.cli.command import main
from batchgen.job.stores import hub_output
from batchgen.job.stores.hub_output import HubOutput

# huggingface_hub sends a file to its HTTP client in a way that this client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")
OUT = "hf://datasets/org/name/data/out.parquet"
TOKEN = "hf_" + "x" * 34
ROWS = 50


class Hub:
    """One dataset repository, org/name, by what huggingface_hub asks of the hub to commit a file
    through Git LFS. `fail`: what goes wrong with the next requests whose path has that word."""

    def __init__(self) -> None:
        self.head = 1
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.fail: list[tuple[str, int]] = []
        self.before_commit: Any = None
        self.url = ""

    @property
    def sha(self) -> str:
        return f"{self.head:040x}"

    def commit(self, path: str, data: bytes) -> None:
        self.files[path] = data
        self.head += 1


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: in two it waits for the client's acknowledgement

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if (fault := next((f for f in hub.fail if f[0] in path), None)) is not None:
                hub.fail.remove(fault)
                if fault[1] <= 0:
                    self.close_connection = True
                    if fault[1] < 0:
                        self.reply(path, body)
                    return
                return self.answer({"error": "it fails"}, fault[1])
            if path != "/put" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "no"}, 401)
            self.answer(*self.reply(path, body))

        do_GET = do_POST = do_PUT = do_HEAD = serve

        def reply(self, path: str, body: bytes) -> tuple[Any, int]:
            if path.startswith("/put"):
                hub.objects[hashlib.sha256(body).hexdigest()] = body
                return {}, 200
            if "/paths-info/" in path:
                asked = parse_qs(body.decode())["paths"]
                return [entry(hub, name) for name in asked if name in hub.files], 200
            if "/preupload/" in path:
                files = [{"path": file["path"], "uploadMode": "lfs", "shouldIgnore": False}
                         for file in json.loads(body)["files"]]  # fmt: skip
                return {"files": files}, 200
            if path.endswith("/info/lfs/objects/batch"):
                upload = {"upload": {"href": f"{hub.url}/put"}}
                found = [{**named, "actions": upload} for named in json.loads(body)["objects"]]
                return {"transfer": "basic", "objects": found}, 200
            if "/commit/" in path:
                return self.committed([json.loads(line) for line in body.splitlines()])
            if path.startswith("/api/datasets/org/name"):
                return {"id": "org/name", "sha": hub.sha, "siblings": []}, 200
            return {"error": "not found"}, 404

        def committed(self, lines: list[dict[str, Any]]) -> tuple[Any, int]:
            if hub.before_commit is not None:
                hub.before_commit()
            if lines[0]["value"].get("parentCommit") != hub.sha:
                return {"error": "the branch has moved"}, 412
            for line in lines[1:]:
                found = line["value"]
                data = (hub.objects[found["oid"]] if line["key"] == "lfsFile"
                        else base64.b64decode(found["content"]))  # fmt: skip
                hub.commit(found["path"], data)
                hub.commits.append(found["path"])
            return {
                "commitUrl": f"{hub.url}/datasets/org/name/commit/{hub.sha}",
                "commitOid": hub.sha,
                "success": True,
            }, 200

        def answer(self, said: Any, status: int) -> None:
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def entry(hub: Hub, name: str) -> dict[str, Any]:
    data = hub.files[name]
    lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return {"type": "file", "path": name, "size": len(data), "oid": "0" * 40, "lfs": lfs}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.constants
    from huggingface_hub.utils import _http

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("huggingface_hub.constants", "huggingface_hub.hf_api.constants"):
        monkeypatch.setattr(f"{name}.ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub_output, "_PAUSES_S", (0.01, 0.01))
    hasty = vars(time) | {"sleep": lambda _: time.sleep(0.01)}  # between the library's own tries
    monkeypatch.setattr(_http, "time", SimpleNamespace(**hasty))
    monkeypatch.chdir(tmp_path)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "in.jsonl", prompts(ROWS))


def run(source: Path, *more: object) -> int:
    return main(["run", "-i", str(source), "-o", OUT, "--engine", "echo", *map(str, more)])


def test_the_output_appears_by_one_commit_and_a_rerun_makes_none(
    hub: Hub, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["out"] == OUT
    assert "org--name--data--out.parquet.ckpt" in told.err
    table = pq.read_table(io.BytesIO(hub.files["data/out.parquet"]))
    assert table["completion"].to_pylist() == [row["prompt"] for row in prompts(ROWS)]
    assert run(source) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert hub.commits == ["data/out.parquet"]
    assert main(["status", OUT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "complete"
    kept = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept + hub.files["data/out.parquet"]


def test_what_others_wrote_there_is_refused_before_anything_is_computed(
    hub: Hub, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.commit("data/out.parquet", b"of somebody else")
    assert run(source) == 4
    assert "was not written by this job" in capsys.readouterr().err
    assert not list(Path().glob("*.ckpt/parts/*"))
    assert run(source, "--overwrite") == 0
    assert hub.files["data/out.parquet"][:4] == b"PAR1"
    source.write_text(source.read_text() + json.dumps({"prompt": "one more"}) + "\n")
    assert run(source, "--incremental") == 0
    assert pq.read_table(io.BytesIO(hub.files["data/out.parquet"])).num_rows == ROWS + 1
    hub.commit("data/out.parquet", b"changed by hand")
    assert run(source, "--incremental") == 4
    assert hub.files["data/out.parquet"] == b"changed by hand"


def test_a_commit_in_between_is_looked_at_again_and_never_overwritten(
    hub: Hub, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def others(name: str) -> None:
        hub.before_commit = None
        hub.commit(name, b"of somebody else")

    hub.before_commit = lambda: others("README.md")
    assert run(source) == 0
    assert hub.files["README.md"] == b"of somebody else"
    hub.files.pop("data/out.parquet")
    hub.before_commit = lambda: others("data/out.parquet")
    assert run(source) == 4
    assert hub.files["data/out.parquet"] == b"of somebody else"


@pytest.mark.parametrize("path", ["/preupload/", "/objects/batch", "/put", "/commit/", "/paths-"])
@pytest.mark.parametrize("status", [503, 0, -1])
def test_passing_faults_cost_nothing(hub: Hub, source: Path, path: str, status: int) -> None:
    """0: the connection is closed without an answer; -1: after the request was served."""
    hub.fail.append((path, status))
    assert run(source) == 0
    assert hub.fail == []
    assert hub.commits == ["data/out.parquet"]


@pytest.mark.parametrize(("status", "said"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (500, "500")])
def test_what_stays_refused_is_one_line_without_the_token_and_keeps_all_rows(
    hub: Hub, source: Path, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail += [("/commit/", status)] * 40
    assert run(source) == 73
    told = capsys.readouterr().err
    assert said in told
    assert TOKEN not in told
    assert "Traceback" not in told
    hub.fail.clear()
    assert run(source) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert hub.commits == ["data/out.parquet"]


def test_shards_are_sent_by_the_merge(hub: Hub, source: Path) -> None:
    for shard in ("0/2", "1/2"):
        assert run(source, "--shard", shard) == 0
    assert hub.commits == []
    assert main(["merge", OUT]) == 0
    assert pq.read_table(io.BytesIO(hub.files["data/out.parquet"])).num_rows == ROWS


def test_addresses_that_name_no_file_of_a_dataset_are_refused() -> None:
    for wrong in ("hf://datasets/org/name", "hf://org/name/f.parquet", "hf://datasets/o/n/../f"):
        assert main(["run", "-i", "in.jsonl", "-o", wrong, "--engine", "echo"]) == 2
    assert str(HubOutput.of(Path("hf://datasets/o/n@dev/f.parquet"))) == (
        "hf://datasets/o/n@dev/f.parquet"
    )
