"""Which equality `--deterministic` promises, and what it was computed on: recorded in the manifest.

What equality is not promised across is recorded whenever it changed within a job, on resuming or
from shard to shard, so that nobody takes its output for one machine's.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from batchgen.devices import gpu_names
from batchgen.installed import version_of

__all__ = ["ACROSS", "changes", "promise_of", "with_changes"]

ACROSS = (
    "batch size",
    "order of rows",
    "slots",
    "chunks of prompts",
    "preemption",
    "resume",
    "shards",
    "prefix cache on or off",
)
_NOT_ACROSS = ("another GPU or CPU", "another version")
_PACKAGES = ("triton", "torch", "transformers")
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "sve", "asimd")
_CPU_FILE = Path("/proc/cpuinfo")


def promise_of(device: str) -> dict[str, Any]:
    """For the manifest: across what tokens and logits are equal bit for bit, across what not, and
    what computes. Standard library only."""
    names = [] if device.startswith("cpu") else gpu_names()
    versions = [(name, version_of(name)) for name in _PACKAGES]
    versions += [("driver", one.removeprefix("driver ")) for one in names if _is_driver(one)]
    return {
        "equal_across": list(ACROSS),
        "not_across": list(_NOT_ACROSS),
        "computed_on": sorted({one for one in names if not _is_driver(one)}) or [_cpu()],
        "computed_with": {name: found for name, found in versions if found},
    }


def _is_driver(name: str) -> bool:
    return name.startswith("driver ")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines `torch: 2.11.0 -> 2.13.0`: of two jobs' facts, what equality is not promised across."""
    old, new = _grounds(before), _grounds(now)
    return [
        f"{name}: {old.get(name, '(absent)')} -> {new.get(name, '(absent)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def with_changes(facts: dict[str, Any], earlier: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of a deterministic job, with all that was other in its earlier runs or shards."""
    if "deterministic" not in facts:
        return facts
    held = [facts["deterministic"], *(one.get("deterministic") or {} for one in earlier)]
    found = {line for one in held for line in one.get("changed_within", ())}
    found |= {line for one in held[1:] if one for line in changes({"deterministic": one}, facts)}
    if not found:
        return facts
    return facts | {"deterministic": facts["deterministic"] | {"changed_within": sorted(found)}}


def _grounds(facts: Mapping[str, Any]) -> dict[str, str]:
    """What computed, by name. Versions stand in `versions` of outputs without the mode, too."""
    held = facts.get("deterministic") or {}
    versions = {**(facts.get("versions") or {}), **held.get("computed_with", {})}
    found = {name: str(value) for name, value in versions.items() if name != "python"}
    computed_on = held.get("computed_on")
    return found | ({"computed on": ", ".join(computed_on)} if computed_on else {})


def _cpu() -> str:
    """The CPU's name and what of its instructions the kernels are compiled for."""
    name, flags = platform.machine(), ""
    if _CPU_FILE.exists():
        for line in _CPU_FILE.read_text(errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            name = value if key == "model name" else name
            flags = value if key in ("flags", "Features") else flags
            if flags and name != platform.machine():
                break
    known = set(flags.split())
    return " ".join([name, *(one for one in _INSTRUCTIONS if one in known)])
