"""Helpers of the tests that run whole jobs with the echo engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import warm_process

from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.stores.remote_path import RemotePath

AnyPlace = TypeVar("AnyPlace", Path, RemotePath)

CHANGING = (
    "queue_s", "prefill_s", "ttft_s", "decode_s", "tpot_s", "latency_s", "started_at",
    "finished_at", "run_id", "attempt", "preemptions", "cached_tokens",
)  # fmt: skip
"""Columns that may differ between equal runs (INTERFACE: Parquet out)."""


def write_rows(path: AnyPlace, rows: Iterable[Mapping[str, Any] | str]) -> AnyPlace:
    """A JSONL file or object; a string stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def prompts(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"row-{i}", "prompt": f"prompt number {i}", "tag": f"t{i % 7}"} for i in range(count)
    ]


def mixed_rows(count: int) -> list[dict[str, Any] | str]:
    """Rows of every kind: plain, sampled, several samples, bad ones."""
    rows: list[dict[str, Any] | str] = list(prompts(count))
    for i in range(0, count, 7):
        rows[i] = {"prompt": f"without id {i}", "temperature": 1, "n": 1 + i % 3}
    for i in range(3, count, 50):
        rows[i] = "{broken"
    return rows


def batchgen_command(*args: object) -> list[str]:
    return [sys.executable, "-m", "batchgen", *map(str, args)]


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of batchgen."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BATCHGEN_")}
    return kept | {"OMP_NUM_THREADS": "1"} | extra


def begin(
    *args: object, fault: str = "", heard: bool = True, cold: bool = False, **more: Any
) -> subprocess.Popen[Any]:
    """Start the command, with a fault. What it says waits for `communicate`, or is lost where it is
    not `heard`; `cold`: from a start of Python; `more` as for `subprocess.Popen`."""
    stream = subprocess.PIPE if heard else subprocess.DEVNULL
    env = environment(BATCHGEN_FAULT=fault)
    given = {"env": env, "stdout": stream, "stderr": stream, "text": True}
    if cold:
        return subprocess.Popen(batchgen_command(*args), **(given | more))
    return warm_process.start([*map(str, args)], **(given | more))


def parts_of(out: Path) -> list[Path]:
    """The files of finished rows beside an output."""
    return list((Path(f"{out}.ckpt") / "parts").glob("part-*.parquet"))


def wait_for_parts(process: subprocess.Popen[str], out: Path, count: int = 1) -> list[Path]:
    """Until that many parts of `out` lie there, or the process has ended: all of them."""
    deadline = time.monotonic() + 120
    while len(found := parts_of(out)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no part came"
        time.sleep(0.005)
    return found


def batchgen(*args: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end as a user would."""
    with begin(*args, env=environment(**extra)) as process:
        try:
            said, told = process.communicate(timeout=120)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, told)


def cold_batchgen(*args: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """As `batchgen`, from a start of Python: for what is about imports, or memory."""
    return subprocess.run(
        batchgen_command(*args),
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
    )


def loaded_modules(*args: object) -> set[str]:
    """What a command that ends with 0 has imported by then, packages and modules."""
    code = (
        "import sys; from batchgen.__main__ import main; code = main(sys.argv[1:]);"
        "print('\\n' + ' '.join(sorted(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, args)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def summary_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last line on stdout; nothing else may be there."""
    assert len(result.stdout.splitlines()) == 1, result.stdout + result.stderr
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def output_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, in its order."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def stable(path: Place) -> pa.Table:
    """An output without the columns that may differ between equal runs."""
    table = pq.read_table(arrow_source(path))
    return table.drop_columns([name for name in CHANGING if name in table.column_names])
