"""A bucket on a real S3 server (moto's), behind a proxy that counts requests and breaks them.

Run as a program it serves moto alone: `python tests/s3_server.py PARENT` prints its port
and ends with the process PARENT, which started it.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"
KEYS = {"AWS_ACCESS_KEY_ID": "TESTKEY", "AWS_SECRET_ACCESS_KEY": "s3cret-secret-word"}


@dataclass
class Fault:
    """What goes wrong with requests that match, `times` of them.

    Kinds: `busy` (503), `slow`, `reset` (half of the answer), `lost` (done, and no answer),
    `expired`, `denied`, `stale` (a listing as it was the first time).
    """

    kind: str
    matches: Callable[[str, str], bool] = lambda method, path: True
    times: float = 1
    skip: int = 0


@dataclass
class Proxy:
    """`requests` counts by method; a listing is `LIST`."""

    port: int
    target: int
    faults: list[Fault] = field(default_factory=list)
    parts: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self) -> dict[str, str]:
        """What makes clients go through here."""
        return {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def next_fault(self, method: str, path: str) -> str | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.matches(method, path):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault.kind
        return None


def handler_of(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    connections = threading.local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece: in two it waits for the client's acknowledgement

        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            listing = self.command == "GET" and "list-type=2" in self.path
            proxy.requests["LIST" if listing else self.command] += 1
            proxy.parts += self.command == "PUT" and "/parts/part-" in self.path
            kind = proxy.next_fault("LIST" if listing else self.command, self.path)
            if kind == "busy":
                return self.answer(503, [], BUSY)
            if kind == "expired":
                return self.answer(400, [], EXPIRED)
            if kind == "denied":
                return self.answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
            if kind == "slow":
                time.sleep(0.3)
            if kind == "stale" and self.path in proxy.listings:
                return self.answer(*proxy.listings[self.path])
            status, headers, data = self.forward(body)
            if listing:
                proxy.listings.setdefault(self.path, (status, headers, data))
            if kind in ("reset", "lost"):
                return self.cut(status, headers, data, kind == "reset")
            self.answer(status, headers, data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = getattr(connections, "open", None)
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
                connections.open = connection
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            try:
                connection.request(self.command, self.path, body=body, headers=headers)
                response = connection.getresponse()
                return response.status, response.getheaders(), response.read()
            except (OSError, http.client.HTTPException):
                connections.open = None
                connection.close()
                raise

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.head(status, headers, data)
            if self.command != "HEAD":
                self.wfile.write(data)

        def head(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            skipped = ("connection", "transfer-encoding", "server", "date", "content-length")
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                if name.lower() not in skipped:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()

        def cut(self, status: int, headers: Any, data: bytes, half: bool) -> None:
            """Close the connection with a reset, in the middle of the answer or before it."""
            if half:
                self.head(status, headers, data)
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def s3_behind_proxy(bucket: str = "bucket") -> Iterator[Proxy]:
    """moto in a process of its own, with a bucket, behind a proxy in this one."""
    server = subprocess.Popen(
        [sys.executable, __file__, str(os.getpid())],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        with proxied(int(server.stdout.readline())) as proxy:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
            connection.request("PUT", f"/{bucket}", headers={"Authorization": AUTHORIZATION})
            assert connection.getresponse().status == 200
            connection.close()
            yield proxy
    finally:
        server.kill()
        server.communicate(timeout=60)


AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=TESTKEY/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)


@contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    proxy = Proxy(0, target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(proxy))
    server.daemon_threads = True
    server.block_on_close = False
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def serve() -> None:
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    WSGIRequestHandler.disable_nagle_algorithm = True
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    while os.getppid() == int(sys.argv[1]):
        time.sleep(0.5)


if __name__ == "__main__":
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve()
