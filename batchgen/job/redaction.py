"""What must stand in no message, log, manifest or footer: passwords in URLs and access tokens."""

from __future__ import annotations

import logging
import os
import re

__all__ = ["RedactingFormatter", "redacted"]

_URL_LOGIN = re.compile(r"(\w[\w+.-]*:/{1,2})[^\s/@'\"\\]+@")
_URL_SECRET = re.compile(
    r"(?i)([?&](?:access_token|token|key|api_key|password|sig|signature"
    r"|x-(?:amz|goog)-(?:signature|credential|security-token))=)[^&\s'\"\\]+"
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_TOKEN_NAMES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
)  # fmt: skip
_HIDDEN = "***"
_LEAST_CHARACTERS = 8
"""Of a token from the environment: a shorter one would hide ordinary words."""


def redacted(text: str) -> str:
    """The text with every secret in it replaced by `***`."""
    for name in _TOKEN_NAMES:
        token = os.environ.get(name, "")
        if len(token) >= _LEAST_CHARACTERS:
            text = text.replace(token, _HIDDEN)
    text = _URL_LOGIN.sub(rf"\1{_HIDDEN}@", text)
    text = _URL_SECRET.sub(rf"\1{_HIDDEN}", text)
    return _HUB_TOKEN.sub(_HIDDEN, text)


class RedactingFormatter(logging.Formatter):
    """A log format that lets no secret through."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redacted(super().format(record))
