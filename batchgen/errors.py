"""Every error a user can meet: what happened, what to do next, and the exit code it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "BatchgenError",
    "ErrorCode",
    "FingerprintMismatchError",
    "InputUnreadableError",
    "InvalidDataError",
    "ModelRefusedError",
    "OutputHeldError",
    "OutputUnwritableError",
    "RowError",
    "StoppedError",
    "UsageError",
]


class ErrorCode(StrEnum):
    """Why one row failed: the `error_code` column (INTERFACE: the list is closed)."""

    INVALID_JSON = "invalid_json"
    INVALID_ROW = "invalid_row"
    MISSING_PROMPT = "missing_prompt"
    EMPTY_PROMPT = "empty_prompt"
    DUPLICATE_ID = "duplicate_id"
    UNKNOWN_PARAM = "unknown_param"
    INVALID_PARAM = "invalid_param"
    INVALID_SCHEMA = "invalid_schema"
    UNSUPPORTED_SETTING = "unsupported_setting"
    TEMPLATE_ERROR = "template_error"
    PROMPT_TOO_LONG = "prompt_too_long"
    MODEL_MISMATCH = "model_mismatch"
    UNSUPPORTED_URL = "unsupported_url"
    ROW_TIMEOUT = "row_timeout"
    OOM = "oom"
    NAN_LOGITS = "nan_logits"
    NO_ALLOWED_TOKEN = "no_allowed_token"
    ENGINE_CRASH = "engine_crash"
    INTERNAL = "internal"


class RowError(Exception):
    """One row cannot be served; it becomes an output row in its own place. Never ends the job."""

    def __init__(
        self, code: ErrorCode, message: str, rest: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.rest = rest
        """Of a row that is not whole, what could be read: its id may be among it."""


class BatchgenError(Exception):
    """Ends the command: `message` says what and where, `hint` what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint is not None:
            self.add_note(f"next: {hint}")  # so that a traceback says it too


class UsageError(BatchgenError):
    """The command's words are off."""

    exit_code = 2


class ModelRefusedError(BatchgenError):
    """The model cannot be served exactly, or cannot be loaded; no row was touched."""

    exit_code = 2


class FingerprintMismatchError(BatchgenError):
    """Something that can change a completion differs from the run that is resumed."""

    exit_code = 4


class OutputHeldError(BatchgenError):
    """Another run holds the output."""

    exit_code = 5


class InvalidDataError(BatchgenError):
    """`validate` found bad rows, or a column has the wrong type."""

    exit_code = 65


class InputUnreadableError(BatchgenError):
    """An input is missing, unreadable or damaged in the middle."""

    exit_code = 66


class OutputUnwritableError(BatchgenError):
    """The output cannot be written, equals an input, or the disk is full."""

    exit_code = 73


class StoppedError(BatchgenError):
    """Stopped on request or at a deadline; run the same command again to continue."""

    exit_code = 75
