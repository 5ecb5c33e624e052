"""The README stays true: its commands run, its flags exist, its files are there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from batchgen.cli.main import COMMANDS, cli

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


def test_ci_runs_the_very_test_command() -> None:
    install, _, test = blocks("bash")[1].strip().partition(" && ")
    assert install == "pip install -e '.[test]'"
    assert test in (ROOT / ".ci" / "run").read_text()


def test_every_flag_and_command_that_is_named_exists() -> None:
    known = set()
    for command in COMMANDS:
        result = CliRunner().invoke(cli, [command, "--help-all"])
        if result.exit_code:
            result = CliRunner().invoke(cli, [command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z0-9-]*", result.output))
    text = re.sub(r"```(?!bash).*?```", "", README, flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("python "))
    text = re.sub(r"python -m pytest[^\n`]*", "", text)  # its flags are pytest's
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    for script in set(re.findall(r"python (jobs/\S+\.py)", text)):
        known |= set(re.findall(r'"(--[a-z][a-z0-9-]*)"', (ROOT / script).read_text()))
    assert named - known == set()
    for name in re.findall(r"batchgen ([a-z]+) ", "\n".join(blocks("bash"))):
        assert name in COMMANDS


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:jobs|tests|sample_data|batchgen)/[\w./-]+)`", README):
        assert (ROOT / target).exists(), target
