"""What `check_versions.sh` found: one object a run in versions.jsonl; docs/versions.md the last.

python jobs/versions.py record lowest 'torch==2.13.0 ...' junit.xml   # in the set's own venv
python jobs/versions.py table
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any
from xml.etree import ElementTree

FILE = Path(__file__).with_name("versions.jsonl")
LIBRARIES = ("torch", "transformers", "datasets", "pyarrow", "click", "tqdm")
OTHERS = ("numpy", "huggingface_hub", "tokenizers", "pandas")
COLUMNS = ("date", "python", *LIBRARIES, "passed", "failed", "skipped", "seconds")


def record(name: str, pins: str, junit: Path) -> dict[str, Any]:
    """One run, read off pytest's report; `pins` is what pip was given."""
    suites = ElementTree.parse(junit).getroot().findall("testsuite")
    counts = {what: sum(int(suite.get(what, 0)) for suite in suites) for what in _COUNTED}
    failed = counts["failures"] + counts["errors"]
    return {
        "set": name,
        "date": time.strftime("%Y-%m-%d"),
        "pins": pins.split(),
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "failures": [_name(case) for case in _cases(suites) if _has_failed(case)],
        "seconds": round(sum(float(suite.get("time", 0)) for suite in suites)),
        "python": python_version(),
        **{library: version(library) for library in (*LIBRARIES, *OTHERS)},
    }


_COUNTED = ("tests", "failures", "errors", "skipped")


def _cases(suites: list[ElementTree.Element]) -> list[ElementTree.Element]:
    return [case for suite in suites for case in suite.findall("testcase")]


def _has_failed(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def latest() -> dict[str, dict[str, Any]]:
    """The last run of each set."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return {run["set"]: run for run in map(json.loads, lines)}


def table() -> list[str]:
    """Lines of Markdown."""
    rows = [("set", *COLUMNS), ("---",) * (len(COLUMNS) + 1)]
    rows += [(name, *(str(run[c]) for c in COLUMNS)) for name, run in latest().items()]
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> int:
    """0: no test failed, or only the table was asked for."""
    if sys.argv[1:] == ["table"]:
        print("\n".join(table()))
        return 0
    _, name, pins, junit = sys.argv[1:]
    run = record(name, pins, Path(junit))
    with FILE.open("a", encoding="utf-8") as file:
        print(json.dumps(run), file=file)
    print(json.dumps(run))
    return 1 if run["failed"] or not run["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
