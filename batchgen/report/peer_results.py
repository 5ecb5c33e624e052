"""What a peer made of the same workloads, read from its results file, and the ratios to it.

The file holds JSON objects: one a line, whatever word stands before it (`RESULT {...}`), or
`batchgen bench --json`'s own report. A result names its `workload` (or `work`), its rate
`output_tokens_per_s` (or `out_tok_s`), and where they matter `sampling` and `engine` (or `peer`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchgen.errors import InputUnreadableError, InvalidDataError

__all__ = ["PeerResults"]

_KEY = tuple[str, str]
_HINT = "a result is a JSON object a line, with workload and output_tokens_per_s"


class PeerResults:
    """The best rate of a peer for each workload and sampling variant."""

    def __init__(self, rates: Mapping[_KEY, tuple[float, str]]) -> None:
        self._rates = dict(rates)

    @classmethod
    def read(cls, file: Path) -> PeerResults:
        """InputUnreadableError where there is no such file, InvalidDataError where it has no
        result."""
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputUnreadableError(f"cannot read {file}: {error}", _HINT) from error
        rates: dict[_KEY, tuple[float, str]] = {}
        for result in _results(text):
            key, rate, peer = _parsed(result)
            if rate > rates.get(key, (0.0, ""))[0]:
                rates[key] = (rate, peer)
        if not rates:
            raise InvalidDataError(f"{file} has no result", _HINT)
        return cls(rates)

    def compare(self, rows: Sequence[dict[str, Any]]) -> None:
        """Give each of batchgen's rows the peer's rate, its name, and how many times it that is."""
        for row in rows:
            found = self._rates.get((row["workload"], row.get("sampling", "greedy")))
            if row["engine"] == "batchgen" and found is not None:
                rate, row["peer"] = found
                row["peer_tokens_per_s"] = rate
                row["ratio"] = round(row["output_tokens_per_s"] / rate, 3)


def _results(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        start = line.find("{")
        try:
            value = json.loads(line[start:]) if start >= 0 else None
        except ValueError:
            continue  # a peer's log stands between its results
        if isinstance(value, dict):
            listed = value.get("results")
            found = listed if isinstance(listed, list) else [value]
            yield from (result for result in found if _is_result(result))


def _is_result(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(_name(value), str):
        return False
    rate = _rate(value)
    return isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0


def _parsed(result: dict[str, Any]) -> tuple[_KEY, float, str]:
    name = str(_name(result)).removesuffix(".json")
    peer = result.get("engine", result.get("peer", "peer"))
    return (name, str(result.get("sampling", "greedy"))), float(_rate(result)), str(peer)


def _name(result: dict[str, Any]) -> Any:
    return result.get("workload", result.get("work"))


def _rate(result: dict[str, Any]) -> Any:
    return result.get("output_tokens_per_s", result.get("out_tok_s"))
