"""The README stays true and short: its first commands run. Its words are held by test_docs.py."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run_command(command: str, folder: Path) -> str:
    """What it prints to standard output; it must exit with 0."""
    program, *arguments = shlex.split(command)
    assert program == "batchgen"
    done = subprocess.run(
        [sys.executable, "-m", "batchgen", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_first_commands_run_as_written_and_print_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    first, judging = blocks("bash")[0].strip().splitlines()
    install, _, command = first.partition(" && ")
    assert install == "pip install ."
    shown = next(line for line in README.splitlines() if line.startswith('{"out"'))
    printed = json.loads(run_command(command, tmp_path).splitlines()[-1])
    expected = json.loads(shown)
    assert list(printed) == list(expected)
    for key in ("out", "exit_code", "rows", "ok", "errors", "computed", "prompt_tokens", "model"):
        assert printed[key] == expected[key], key
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == expected["rows"]
    shown_right = re.search(r"^(\d+) of 72 rows wholly right", README, flags=re.MULTILINE)
    right = re.match(r"(\d+) of 72 rows wholly right", run_command(judging, tmp_path))
    assert shown_right is not None
    assert right is not None
    assert abs(int(right[1]) - int(shown_right[1])) <= 1  # near ties round as the CPU does


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_ci_runs_the_very_test_command() -> None:
    (block,) = [block for block in blocks("bash") if "pytest" in block]
    install, _, test = block.strip().partition(" && ")
    assert install == "pip install -e '.[test]'"
    assert test in (ROOT / ".ci" / "run").read_text()
