"""What the pages say of versions is what was measured: tables and data agree, pins and bounds."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "batchgen" / "docs"
PAGE, TYPES = ((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("versions", "models"))
VERSIONS = runpy.run_path(str(ROOT / "jobs" / "versions.py"))
measured = pytest.mark.skipif(
    not VERSIONS["FILE"].exists(), reason="jobs/check_versions.sh was not run to its end yet"
)
REPORTS = sorted((ROOT / "jobs" / "types").glob("*.json"))


def bounds() -> dict[str, str]:
    """The lowest release of each library that pyproject takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(requirement.split(">=") for requirement in project["dependencies"])


def padded(version: str) -> str:
    return ".".join([*version.split("+")[0].split("."), "0", "0"][:3])


@measured
def test_the_table_is_made_of_the_last_runs() -> None:
    assert "\n".join(VERSIONS["table"]()) in PAGE


def test_the_lowest_set_is_what_pyproject_takes() -> None:
    script = (ROOT / "jobs" / "check_versions.sh").read_text(encoding="utf-8")
    pins = re.search(r'\[lowest\]="(.+)"', script)
    assert pins is not None
    pinned = dict(pin.split("==") for pin in pins[1].split())
    assert pinned == {name: padded(lowest) for name, lowest in bounds().items()}


@measured
def test_no_test_failed_where_the_libraries_were_other_ones() -> None:
    runs = VERSIONS["latest"]()
    assert runs
    for run in runs.values():
        assert run["passed"] > 250
        assert (run["failed"], run["failures"]) == (0, [])
    for library, lowest in bounds().items():
        if "lowest" in runs and library != "torch":  # whose lowest comes as GBs of CUDA alone
            assert padded(runs["lowest"][library]) == padded(lowest)


def types(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_the_page_counts_the_model_types_as_reported(path: Path) -> None:
    report = types(path)
    assert path.name == f"transformers-{report['transformers']}.json"
    counts = [str(report["counts"][what]) for what in ("proven", "refused", "untried")]
    assert f"| {report['transformers']} | {' | '.join(counts)} |" in TYPES
    outcomes = [entry["outcome"] for entry in report["types"]]
    assert {what: outcomes.count(what) for what in set(outcomes)} == report["counts"]


def test_the_page_lists_the_types_of_the_newest_report() -> None:
    newest = types(REPORTS[-1])
    listed = re.search(r"model types proven</summary>\n\n(.*?)\n\(of", TYPES, re.DOTALL)
    assert listed is not None
    proven = {entry["model_type"] for entry in newest["types"] if entry["outcome"] == "proven"}
    assert set(listed[1].split()) == proven
