"""Files behind https://, by range requests; login and query are used and never shown."""

from __future__ import annotations

import base64
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from batchgen.job.stores.failures import ChangedError, StoreError, persistently
from batchgen.job.stores.remote_input import RemoteInput

__all__ = ["web_input"]

_TIMEOUT_S = 60.0
_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")


def web_input(address: str) -> RemoteInput:
    """The file at that address. Raises FileNotFoundError, StoreError."""
    parts = urllib.parse.urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    name = f"{parts.scheme}://{host}{parts.path}"
    asked = _Asked(urllib.parse.urlunsplit(parts._replace(netloc=host, fragment="")), name)
    if "@" in parts.netloc:
        asked.login = _basic(parts)
    size, version = asked.look()

    def fetch(start: int, stop: int) -> bytes:
        return asked.read(start, stop, version)

    return RemoteInput(name, size, version, fetch)


def _basic(parts: urllib.parse.SplitResult) -> str:
    pair = (
        f"{urllib.parse.unquote(parts.username or '')}:{urllib.parse.unquote(parts.password or '')}"
    )
    return "Basic " + base64.b64encode(pair.encode()).decode()


class _Asked:
    """One address, and how to ask for its bytes."""

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._name = name
        self.login = ""

    def look(self) -> tuple[int, str]:
        """Size and version: an entity tag, else the time of the last change and the size."""
        headers, _ = self._get(0, 1)
        whole = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if whole is None:
            raise StoreError(self._name, "the server sends no ranges of it: download it first")
        size = int(whole[1])
        return size, self._version(headers, size)

    def read(self, start: int, stop: int, version: str) -> bytes:
        """Those bytes. Raises ChangedError where the file is another version by now."""
        headers, data = self._get(start, stop)
        whole = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if whole is None or self._version(headers, int(whole[1])) != version:
            raise ChangedError(self._name)
        return data

    @staticmethod
    def _version(headers: Any, size: int) -> str:
        return (headers.get("ETag") or f"{headers.get('Last-Modified', '')} {size}").strip('"')

    def _get(self, start: int, stop: int) -> tuple[Any, bytes]:
        return persistently(lambda: self._get_once(start, stop))

    def _get_once(self, start: int, stop: int) -> tuple[Any, bytes]:
        request = urllib.request.Request(self._address)
        request.add_header("Range", f"bytes={start}-{stop - 1}")
        if self.login:  # not to be sent on to where a redirection leads
            request.add_unredirected_header("Authorization", self.login)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                if answer.status != 206:
                    return answer.headers, b""
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(error.code) from None
        except (OSError, http.client.HTTPException):
            raise StoreError(self._name, "the server cannot be reached", passing=True) from None

    def _refused(self, code: int) -> Exception:
        if code in (404, 410):
            return FileNotFoundError(self._name)
        if code in (401, 403):
            return StoreError(self._name, f"access is denied ({code})")
        passing = code in (408, 429) or code >= 500
        return StoreError(self._name, f"the server answers {code}", passing=passing)
