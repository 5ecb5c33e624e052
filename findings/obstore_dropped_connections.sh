#!/usr/bin/env bash
# obstore with a connection that is dropped before the answer: which requests does it repeat?
#
# Its RetryConfig names dropped connections among what is retried, with 10 retries by default. Seen
# with obstore 0.12.1 on S3's protocol, one connection reset: get, head and a plain put are sent
# again and succeed; a put with mode="create" or an entity tag fails after one request, and so does
# delete, of one key too: it is POST ?delete, and not repeated, though it would do no harm. Whoever
# relies on the setting repeats these, and finds out after a conditional put whose write came through.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q obstore==0.12.1
"$work/venv/bin/python" - <<'PY'
import socket
import struct
import threading

import obstore
from obstore.exceptions import GenericError
from obstore.store import S3Store

print("obstore", obstore.__version__)
RESET = struct.pack("ii", 1, 0)
ANSWER = (
    b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n'
    b"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"
)


def serve(listener, seen):
    """Reads requests; the first one's connection is reset, all others are answered."""
    while True:
        connection, _ = listener.accept()
        file = connection.makefile("rb")
        while line := file.readline():
            length = 0
            while (header := file.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            file.read(length)
            seen.append(line.split()[0].decode())
            if len(seen) == 1:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                break
            connection.sendall(ANSWER)
        file.close()
        connection.close()


def requests_of(call):
    """The requests that arrive, and how the call ends."""
    listener, seen = socket.create_server(("127.0.0.1", 0)), []
    threading.Thread(target=serve, args=(listener, seen), daemon=True).start()
    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}",
        access_key_id="a",
        secret_access_key="b",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    try:
        call(store)
    except GenericError:
        return seen, "fails"
    return seen, "succeeds"


found = {
    "get": requests_of(lambda store: obstore.get(store, "k").bytes()),
    "put": requests_of(lambda store: obstore.put(store, "k", b"1")),
    "put, create": requests_of(lambda store: obstore.put(store, "k", b"1", mode="create")),
    "put, e_tag": requests_of(lambda store: obstore.put(store, "k", b"1", mode={"e_tag": '"x"'})),
    "delete": requests_of(lambda store: obstore.delete(store, "k")),
}
for name, (seen, end) in found.items():
    print(f"{name:12} {seen} {end}")
assert found["get"] == (["GET", "GET"], "succeeds")
assert found["put"] == (["PUT", "PUT"], "succeeds")
assert found["put, create"] == (["PUT"], "fails")
assert found["put, e_tag"] == (["PUT"], "fails")
assert found["delete"] == (["POST"], "fails")
PY
