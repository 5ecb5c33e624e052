"""The installed libraries beside the lowest and the newest ones that the tests ran with."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from importlib import resources

from batchgen import __version__
from batchgen.installed import version_of
from batchgen.report.machine.finding import Finding, State

__all__ = ["EXTRAS", "tested_versions", "version_findings"]

LEAST_PYTHON = (3, 11)
EXTRAS = {
    "gguf": ("gguf", ".gguf models"),
    "structured": ("llguidance", "JSON schemas, regexes, grammars"),
    "remote": ("obstore", "s3://, gs://, az://, https://"),
    "quantized": ("compressed-tensors", "quantised checkpoints"),
    "ray": ("ray", "batchgen ray run"),
}
"""Of pyproject: extra -> the package that tells whether it is there, and what it is for."""


def tested_versions() -> dict[str, tuple[str, str]]:
    """Library -> (lowest, newest); the lowest is what the package asks for."""
    text = resources.files(__package__).joinpath("tested_versions.json").read_text("utf-8")
    return {name: (low, high) for name, (low, high) in json.loads(text).items()}


def version_findings() -> Iterator[Finding]:
    """Python, batchgen, what it needs, and its extras."""
    yield _python()
    yield Finding("batchgen", State.OK, __version__)
    for name, (low, high) in tested_versions().items():
        yield _library(name, low, high)
    for extra, (package, purpose) in EXTRAS.items():
        found = version_of(package)
        if found is None:
            fix = f"pip install 'batchgen-llm[{extra}]'"
            yield Finding(f"[{extra}]", State.ABSENT, f"not installed: {purpose}", fix)
        else:
            yield Finding(f"[{extra}]", State.OK, f"{package} {found}: {purpose}")


def _python() -> Finding:
    found = platform.python_version()
    if _numbers(found) < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return Finding("python", State.BAD, f"{found}: {least} is needed", f"use Python {least}")
    return Finding("python", State.OK, found)


def _library(name: str, low: str, high: str) -> Finding:
    found = version_of(name)
    if found is None:
        return Finding(name, State.BAD, "not installed", f"pip install '{name}>={low}'")
    if _numbers(found) < _numbers(low):
        return Finding(
            name, State.BAD, f"{found}: {low} is the least", f"pip install -U '{name}>={low}'"
        )
    if _numbers(found)[:2] > _numbers(high)[:2]:
        text = f"{found}: newer than {high}, the newest tested"
        return Finding(name, State.WARNING, text, f"if runs fail: pip install '{name}<={high}'")
    return Finding(name, State.OK, f"{found} (tested: {low} to {high})")


def _numbers(text: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])
