"""What an object store answered, in one line without a secret.

A missing object is FileNotFoundError and one that must not be there FileExistsError, as on a disk.
All else is a StoreError, which is no OSError: who takes an OSError for a damaged file must not take
an unreachable store for one.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from batchgen.errors import BatchgenError

__all__ = ["ChangedError", "StoreError", "ask", "asking", "persistently"]

T = TypeVar("T")
_PAUSES_S = (0.1, 0.3, 1.0, 3.0, 10.0)

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

    def __init__(self, where: object, reason: str, passing: bool = False) -> None:
        """`passing`: the same request may succeed in a moment."""
        super().__init__(f"{where}: {reason}", _HINT)
        self.reason = reason
        self.passing = passing


class ChangedError(Exception):
    """An object is no longer the version that was named."""


def persistently(ask: Callable[[], T]) -> T:
    """The answer, asked for again where the connection broke off; StoreError after some tries.

    obstore repeats requests by itself, but neither a write whose answer was lost nor one whose
    answer broke off.
    """
    for pause in _PAUSES_S:
        try:
            return ask()
        except StoreError as error:
            if not error.passing:
                raise
        time.sleep(pause)
    return ask()


def ask(where: object, request: Callable[[], T]) -> T:
    """`persistently`, with the errors of `asking`. The request may be done twice."""

    def once() -> T:
        with asking(where):
            return request()

    return persistently(once)


@contextmanager
def asking(where: object) -> Iterator[None]:
    """obstore's errors as FileNotFoundError, FileExistsError, ChangedError or StoreError."""
    from obstore import exceptions as raised

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StoreError(where, _reason_of(str(error))) from None
        raise FileNotFoundError(errno.ENOENT, "no such object", str(where)) from None
    except raised.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "the object exists", str(where)) from None
    except (raised.PreconditionError, raised.NotModifiedError) as error:
        raise ChangedError(str(where)) from error
    except raised.BaseError as error:
        reason = _reason_of(str(error))
        raise StoreError(where, reason, passing=reason in _PASSING) from None
    except OSError:  # of a body that broke off
        raise StoreError(where, _BROKEN, passing=True) from None


def _reason_of(text: str) -> str:
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
    if named.startswith("400") and code is None:  # the answer to HEAD has no body to say more
        return f"the request is refused, as when credentials have expired ({named})"
    if named.startswith(("401", "403")):
        return f"access is denied ({named})"
    return f"the store answers {named}" if named else _connection(text)


_BROKEN = "the connection broke off while an answer came"
_SLOW = "the store does not answer in time"
_AWAY = "the store cannot be reached"
_PASSING = (_BROKEN, _SLOW, _AWAY)


def _connection(text: str) -> str:
    if "timed out" in text or "Timeout" in text:
        return _SLOW
    if "dns error" in text or "lookup address" in text:
        return "there is no host of that name"
    if "body" in text and "connect" not in text:
        return _BROKEN
    return _AWAY
