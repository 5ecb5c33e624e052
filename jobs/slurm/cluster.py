"""A Slurm cluster as the checks see it: submissions in one folder, and what became of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "ROWS", "Cluster", "Skipped", "await_that", "configured", "expect", "partitions", "processes",
    "slurm",
]  # fmt: skip

HERE = Path(__file__).parent
BATCHGEN = os.environ.get("BATCHGEN", "batchgen")
ROWS = 600
_PACE = "slow:at=engine.step,seconds=0.25,rows="
_OVER = {
    "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY",
    "BOOT_FAIL", "DEADLINE",
}  # fmt: skip


class Skipped(Exception):
    """This cluster cannot show it; the text says why."""


class Cluster:
    """One input, the output of one undisturbed process, and jobs that must write the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._submitted: list[str] = []
        rows = [{"id": f"r{i}", "prompt": f"prompt number {i}"} for i in range(ROWS)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = ("run", "-i", "in.jsonl", "-o", "whole.parquet", "--engine", "echo", "-q")
        done = self.batchgen(*args)
        assert done.returncode == 0, done.stderr

    def batchgen(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The command, in the folder."""
        return subprocess.run([BATCHGEN, *args], cwd=self.folder, capture_output=True, text=True)

    def submit(
        self, script: str, out: str, rows_per_step: int, *options: str, **settings: str
    ) -> list[str]:
        """Job ids. The pace of the run is `rows_per_step` rows in a quarter of a second;
        `settings` go to the environment of sbatch and of the job."""
        environment = os.environ | {"BATCHGEN_FAULT": f"{_PACE}{rows_per_step}"} | settings
        command = ["sbatch", "--parsable", *options] if script.endswith(".sbatch") else []
        args = ["in.jsonl", out, "--engine", "echo", "--checkpoint-every", "20"]
        done = subprocess.run(
            [*command, str(HERE / script), *args],
            cwd=self.folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}: {done.stderr}"
        self._submitted += done.stdout.split()
        return done.stdout.split()

    def cancel(self) -> None:
        """What a case that did not come to its end has left in the queue."""
        subprocess.run(["scancel", *self._submitted], capture_output=True)

    def show(self, job: str) -> dict[str, str]:
        """Slurm's own words on a job (of an array: `12_3`)."""
        text = slurm("scontrol", "show", "job", "-o", job).splitlines()[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait(self, job: str, timeout: float = 300) -> dict[str, str]:
        """Until the job is over for good; AssertionError for one that is held, or too late."""
        deadline = time.monotonic() + timeout
        over = False
        while time.monotonic() < deadline:
            shown = self.show(job)
            assert "Held" not in shown["Reason"], f"job {job} is held: {shown['Reason']}"
            before, over = over, shown["JobState"] in _OVER
            if before and over:  # seen twice: not on its way back to the queue
                return shown
            time.sleep(0.5)
        raise AssertionError(f"job {job} is still {shown['JobState']} after {timeout:.0f} s")

    def wait_for_rows(self, out: str, parts: int = 2) -> int:
        """Until so many parts are on disk; how many there are."""

        def enough() -> bool:
            return len(self.parts(out)) >= parts

        await_that(enough, f"{parts} parts of {out} on disk", 120)
        return len(self.parts(out))

    def parts(self, out: str) -> list[Path]:
        """The finished rows of an output on disk."""
        return list(self.folder.glob(f"{out}.ckpt/parts/*.parquet"))

    def log(self, job: str) -> str:
        """What a job, or a task `12_3` of an array, said in all its starts."""
        return (self.folder / f"batchgen-{job}.log").read_text()

    def check(self, out: str) -> str:
        """The output equals that of one undisturbed process, and nothing else is left."""
        compared = self.batchgen("diff", "whole.parquet", out)
        assert compared.returncode == 0, compared.stdout + compared.stderr
        left = [p.name for p in self.folder.rglob("*.tmp")]
        assert not left, left
        return f"equal to one process's, {ROWS} rows"


def await_that(true: Callable[[], bool], what: str, timeout: float) -> None:
    """Look five times a second; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.2)


def slurm(*command: str) -> str:
    """What a command of Slurm printed; AssertionError when it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def configured(name: str) -> str:
    """A value of the site's slurm.conf; "" where it has none."""
    found = re.search(rf"^{name}\s*= (.*)$", slurm("scontrol", "show", "config"), re.MULTILINE)
    return "" if found is None or found[1].strip() == "(null)" else found[1].strip()


def partitions() -> Iterator[dict[str, str]]:
    """Slurm's own words on each partition."""
    for line in slurm("scontrol", "show", "partition", "-o").splitlines():
        yield dict(word.split("=", 1) for word in line.split() if "=" in word)


def expect(shown: dict[str, str], **wanted: str) -> None:
    """AssertionError unless Slurm's words on a job are these."""
    wrong = {name: shown.get(name) for name, value in wanted.items() if shown.get(name) != value}
    assert not wrong, f"job {shown['JobId']}: {wrong}, not {wanted} ({shown.get('Reason')})"


def processes(pattern: str) -> list[int]:
    """Processes of this machine whose command line matches, shells left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            except OSError:
                continue
            if not words[0].endswith(b"bash") and re.search(pattern, os.fsdecode(b" ".join(words))):
                found.append(int(folder.name))
    return found
