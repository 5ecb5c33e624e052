"""A bucket of Google Cloud Storage on this machine: the part of its XML interface that a client
uses, with generations, preconditions and uploads in parts, objects in memory."""

from __future__ import annotations

import email.utils
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_GENERATION = "x-goog-generation"


@dataclass(frozen=True, slots=True)
class Stored:
    """One generation of an object."""

    data: bytes
    generation: int

    def headers(self) -> dict[str, str]:
        """What tells it from others."""
        return {
            "ETag": f'"{md5(self.data).hexdigest()}"',
            "Last-Modified": email.utils.formatdate(usegmt=True),
            _GENERATION: str(self.generation),
        }


@dataclass
class Bucket:
    """Objects by name, and uploads that are not complete: their parts by number."""

    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, data: bytes, wanted: str | None) -> Stored | None:
        """None where the object is not of the wanted generation; 0: none is there."""
        with self.lock:
            known = self.objects.get(name)
            if wanted is not None and int(wanted) != (known.generation if known else 0):
                return None
            self.count += 1
            self.objects[name] = Stored(data, self.count)
            return self.objects[name]

    def begin(self) -> str:
        """A new upload's id."""
        with self.lock:
            self.count += 1
            self.uploads[f"upload-{self.count}"] = {}
            return f"upload-{self.count}"

    def listing(self, prefix: str, delimiter: str, after: str) -> str:
        """Names below, and folders where they are asked for."""
        with self.lock:
            found = sorted(name for name in self.objects if name.startswith(prefix))
        rest = {name: name[len(prefix) :].partition(delimiter or "\n") for name in found}
        folders = sorted({prefix + first + cut for first, cut, _ in rest.values() if cut})
        names = [name for name in found if not rest[name][1] and name > after]
        rows = "".join(map(self._row, names)) + "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"

    def _row(self, name: str) -> str:
        stored = self.objects[name]
        return (
            f"<Contents><Key>{escape(name)}</Key><Generation>{stored.generation}</Generation>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(stored.headers()['ETag'])}</ETag><Size>{len(stored.data)}</Size>"
            "</Contents>"
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: in two it waits for the client's acknowledgement
    bucket: Bucket

    def parse_request(self) -> bool:
        known = super().parse_request()
        if known:
            parts = urlsplit(self.path)
            self.name = unquote(parts.path).partition("/")[2].partition("/")[2]
            asked = parse_qs(parts.query, keep_blank_values=True)
            self.asked = {key: values[0] for key, values in asked.items()}
        return known

    def do_GET(self) -> None:
        if not self.name:
            keys = ("prefix", "delimiter", "start-after")
            self.answer(200, self.bucket.listing(*(self.asked.get(key, "") for key in keys)))
            return
        stored = self.bucket.objects.get(self.name)
        if stored is None:
            self.answer(404, "<Error><Code>NoSuchKey</Code></Error>")
            return
        told = stored.headers()
        if self.headers["If-Match"] not in (None, told["ETag"]):
            self.answer(412)
            return
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"] or "")
        if asked is None:
            self.answer(200, stored.data, told)
            return
        size = len(stored.data)
        start = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        stop = min(size, int(asked[2]) + 1 if asked[1] and asked[2] else size)
        told["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.answer(206, stored.data[start:stop], told)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "uploadId" in self.asked:
            self.bucket.uploads[self.asked["uploadId"]][int(self.asked["partNumber"])] = data
            self.answer(200, b"", {"ETag": f'"{md5(data).hexdigest()}"'})
            return
        stored = self.bucket.put(self.name, data, self.headers["x-goog-if-generation-match"])
        self.answer(412) if stored is None else self.answer(200, b"", stored.headers())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "uploads" in self.asked:
            result = f"<UploadId>{self.bucket.begin()}</UploadId>"
            self.answer(
                200, f"<InitiateMultipartUploadResult>{result}</InitiateMultipartUploadResult>"
            )
            return
        parts = self.bucket.uploads.pop(self.asked["uploadId"])
        stored = self.bucket.put(self.name, b"".join(parts[n] for n in sorted(parts)), None)
        assert stored is not None
        tag = f"<ETag>{escape(stored.headers()['ETag'])}</ETag>"
        told = {_GENERATION: str(stored.generation)}
        self.answer(
            200, f"<CompleteMultipartUploadResult>{tag}</CompleteMultipartUploadResult>", told
        )

    def do_DELETE(self) -> None:
        where = self.bucket.uploads if "uploadId" in self.asked else self.bucket.objects
        gone = where.pop(self.asked.get("uploadId", self.name), None)  # type: ignore[attr-defined]
        self.answer(404 if gone is None else 204)

    def answer(
        self, status: int, body: bytes | str = b"", headers: dict[str, str] | None = None
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def gcs_bucket() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """A bucket of any name, and what makes a client go there."""
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield bucket, {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
