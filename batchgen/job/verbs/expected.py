"""Whether two outputs that differ should have been equal: what their manifests say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from batchgen.job.output.provenance import footer_manifest
from batchgen.job.promise import ACROSS, changes
from batchgen.job.storage.manifest import Manifest, fingerprint_diff
from batchgen.job.stores.places import Place

__all__ = ["expectation"]

_SHOWN = 5


def expectation(a: Place, b: Place) -> list[str]:
    """Sentences on two outputs that differ: which settings do, what equality was promised across,
    and whether that is broken."""
    first, second = footer_manifest(a), footer_manifest(b)
    unknown = [str(p) for p, m in ((a, first), (b, second)) if m is None]
    if first is None or second is None:
        return [f"how {' and '.join(unknown)} came about is not known: no manifest is in it"]
    found = [*_settings(first, second), *_loose(first, second), *_grounds(first, second)]
    if found:
        return found
    return [
        "both were computed with --deterministic, by the same settings, versions and kind of "
        f"device: they should be equal across {', '.join(ACROSS)}; if their inputs are the same, "
        "this is a defect: please report it"
    ]


def _settings(first: Manifest, second: Manifest) -> Iterator[str]:
    lines = fingerprint_diff(first.fingerprint, second.fingerprint)
    lines = [line for line in lines if not line.startswith("deterministic:")]
    if lines:
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        yield f"their settings differ: {'; '.join(lines[:_SHOWN])}{more}"


def _loose(first: Manifest, second: Manifest) -> Iterator[str]:
    which = [name for name, m in (("first", first), ("second", second)) if not _held(m)]
    if which:
        named = "neither was" if len(which) == 2 else f"the {which[0]} was not"
        yield (
            f"{named} computed with --deterministic: rounding may depend on the batch, and a near "
            "tie may fall the other way"
        )


def _grounds(first: Manifest, second: Manifest) -> Iterator[str]:
    lines = changes(first.facts, second.facts)
    kinds = _kind(first.facts), _kind(second.facts)
    if kinds[0] != kinds[1] and not any(line.startswith("computed on") for line in lines):
        lines.append(f"device: {kinds[0]} -> {kinds[1]}")
    if lines:
        yield f"equality is promised for one kind of device and one version: {'; '.join(lines)}"
    for name, manifest in (("first", first), ("second", second)):
        within = _held(manifest).get("changed_within")
        if within:
            yield f"the {name} was not computed by one: {'; '.join(within)}"


def _held(manifest: Manifest) -> dict[str, Any]:
    return manifest.facts.get("deterministic") or {}


def _kind(facts: dict[str, Any]) -> str:
    """The device without its number: any card of a kind computes alike."""
    return re.sub(r"^(cuda|cpu):\d+", r"\1", str(facts.get("device", "auto")))
