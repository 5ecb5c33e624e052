"""What an object store answered, in one line without a secret.

A missing object is FileNotFoundError and one that must not be there FileExistsError, as on a disk.
All else is a StoreError, which is no OSError: who takes an OSError for a damaged file must not take
an unreachable store for one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from batchgen.errors import BatchgenError

__all__ = ["ChangedError", "StoreError", "asking", "reason_of"]

_STATUS = re.compile(r"status code: (\d{3} ?[A-Za-z ]*)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_HINT = (
    "check its name and your credentials, then run the same command again: finished rows are kept"
)
_WORDS = (
    ("NoSuchBucket", "there is no such bucket"),
    ("PermanentRedirect", "the bucket is in another region: set AWS_REGION"),
    ("InvalidAccessKeyId", "the access key is not known there"),
    ("SignatureDoesNotMatch", "the secret key is not the access key's"),
    ("AccessDenied", "access is denied"),
    ("EntityTooLarge", "the object is too large for it"),
)


class StoreError(BatchgenError):
    """An object store cannot be used; as an input it is another exit code (`remote_input`)."""

    exit_code = 73

    def __init__(self, where: object, reason: str) -> None:
        super().__init__(f"{where}: {reason}", _HINT)
        self.reason = reason


class ChangedError(Exception):
    """An object is no longer the version that was named."""


@contextmanager
def asking(where: object) -> Iterator[None]:
    """obstore's errors as FileNotFoundError, FileExistsError, ChangedError or StoreError."""
    from obstore import exceptions as raised

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StoreError(where, reason_of(str(error))) from None
        raise FileNotFoundError(errno.ENOENT, "no such object", str(where)) from None
    except raised.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "the object exists", str(where)) from None
    except (raised.PreconditionError, raised.NotModifiedError) as error:
        raise ChangedError(str(where)) from error
    except raised.BaseError as error:
        raise StoreError(where, reason_of(str(error))) from None
    except TimeoutError:
        raise StoreError(where, "the store does not answer") from None


def reason_of(text: str) -> str:
    """The store's answer in words of ours: addresses in the library's text may hold signatures."""
    code = _CODE.search(text)
    status = _STATUS.search(text)
    named = " ".join(found[1].strip() for found in (status, code) if found)
    if code is not None and code[1] in _EXPIRED:
        return f"the credentials have expired ({named})"
    for word, meaning in _WORDS:
        if word in text:
            return f"{meaning} ({named})" if named else meaning
    if "credential" in text.lower() and not named:
        return "no credentials were found, or they cannot be used"
    if named.startswith(("401", "403")):
        return f"access is denied ({named})"
    return f"the store answers {named}" if named else _connection(text)


def _connection(text: str) -> str:
    if "timed out" in text or "Timeout" in text:
        return "the store does not answer in time"
    if "dns error" in text or "lookup address" in text:
        return "there is no host of that name"
    if "body" in text and "connect" not in text:
        return "the connection broke off while an answer came"
    return "the store cannot be reached"
