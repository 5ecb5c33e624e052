"""A container on Azurite, the emulator of Azure blob storage (`npm install -g azurite`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

COMMAND = "azurite-blob"
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Every emulator's, published with it."""
_VERSION = "2021-08-06"


def is_installed() -> bool:
    return shutil.which(COMMAND) is not None


@contextmanager
def azurite(container: str = "bucket") -> Iterator[dict[str, str]]:
    """What makes a client go there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [COMMAND, "--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--blobPort"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([*words, str(port)], stdout=quiet, stderr=quiet)
    try:
        _create(f"http://127.0.0.1:{port}", container)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        server.terminate()
        server.wait(60)


def _create(address: str, container: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(_request(address, container), timeout=10).close()
            return
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, f"{COMMAND} does not answer"
            time.sleep(0.2)


def _request(address: str, container: str) -> urllib.request.Request:
    """Create the container, signed with the shared key."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n"
    signed += f"/{_ACCOUNT}/{_ACCOUNT}/{container}\nrestype:container"
    mac = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{address}/{_ACCOUNT}/{container}?restype=container", method="PUT"
    )
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", _VERSION)
    request.add_header("Content-Length", "0")
    request.add_header("Authorization", f"SharedKey {_ACCOUNT}:{base64.b64encode(mac).decode()}")
    return request
