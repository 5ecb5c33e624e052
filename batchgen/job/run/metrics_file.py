"""A run's numbers for Prometheus: a text file that node_exporter's textfile collector picks up.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text). Replaced whole, by a
rename, so that a collector never sees half of one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from batchgen.job.flow.progress import Live, Reporter

__all__ = ["MetricsFile", "Reporters"]

_log = logging.getLogger(__name__)
_EVERY_S = 5.0


class Reporters:
    """Several in one."""

    def __init__(self, several: Sequence[Reporter]) -> None:
        self._several = several

    def update(self) -> None:
        """Each."""
        for one in self._several:
            one.update()

    def close(self) -> None:
        """Each."""
        for one in self._several:
            one.close()


class MetricsFile:
    """Writes `Live` to `path` every five seconds. One that cannot be written stops no run."""

    def __init__(self, live: Live, path: Path, labels: dict[str, str]) -> None:
        self._live, self._path = live, path
        self._labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        self._next = 0.0
        self._told = False

    def update(self) -> None:
        """Write, if it is time."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            self._write(running=True)

    def close(self) -> None:
        """Write the last state."""
        self._write(running=False)

    def _write(self, *, running: bool) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_text("".join(self._lines(running)), encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            if not self._told:
                self._told = True
                _log.warning("the metrics %s cannot be written: %s", self._path, error.strerror)

    def _lines(self, running: bool) -> Iterator[str]:
        live = self._live
        yield from self._metric("up", "gauge", "1 while the run is at work.", int(running))
        yield from self._metric(
            "rows_done_total", "counter", "Rows finished by this run.", live.rows
        )
        yield from self._metric(
            "rows_failed_total", "counter", "Of these, failed ones.", live.failed
        )
        yield from self._metric("rows_reused", "gauge", "Rows that earlier runs did.", live.reused)
        if live.total_rows is not None:
            yield from self._metric(
                "rows_expected", "gauge", "Rows that the run is to do.", live.total_rows
            )
        yield from self._metric(
            "prompt_tokens_total", "counter", "Of finished rows.", live.prompt_tokens
        )
        yield from self._metric(
            "completion_tokens_total", "counter", "Generated.", live.generated_tokens
        )
        yield from self._metric("sequences_running", "gauge", "In the engine.", live.running)
        yield from self._metric(
            "updated_timestamp_seconds", "gauge", "When this was written.", round(time.time(), 3)
        )

    def _metric(self, name: str, kind: str, text: str, value: float) -> Iterator[str]:
        yield f"# HELP batchgen_{name} {text}\n"
        yield f"# TYPE batchgen_{name} {kind}\n"
        yield f"batchgen_{name}{{{self._labels}}} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
