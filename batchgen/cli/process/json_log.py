"""What is said on stderr, as an object a line: for collectors of logs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from batchgen.job.redaction import redacted

__all__ = ["JsonFormatter", "JsonLog", "begin_json_log"]

_NAME = "batchgen: "


def begin_json_log() -> None:
    """From here on everything that is written to stderr becomes such lines."""
    sys.stderr = JsonLog(sys.stderr)


class JsonFormatter(logging.Formatter):
    """A record as one object."""

    def format(self, record: logging.LogRecord) -> str:
        """`{"time": ..., "level": "warning", "message": ...}`"""
        return _line(record.levelname.lower(), redacted(super().format(record)))


class JsonLog:
    """A text stream that wraps each line that is not an object of ours yet."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Whole lines go on; the rest waits for its end."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._stream.write((line if _is_ours(line) else _line(*_level(line))) + "\n")
        return len(text)

    def isatty(self) -> bool:
        """No bar is drawn here."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_ours(line: str) -> bool:
    return line.startswith('{"time": ')


def _level(line: str) -> tuple[str, str]:
    """What runs say is info; what a command ends with, or click says, begins otherwise."""
    if line.startswith("Error: "):
        return "error", line.removeprefix("Error: ")
    return "info", line.removeprefix(_NAME).strip()


def _line(level: str, message: str) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "message": message}, ensure_ascii=False)
