"""Files that other tools wrote, and that are not read: the command in the answer makes rows."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow.feather as feather
import pytest

from batchgen.errors import BatchgenError
from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec

PROMPTS = ["Say one.", "Say two."]
ROWS = [{"id": str(n), "prompt": text} for n, text in enumerate(PROMPTS)]
TABLE = pd.DataFrame(ROWS)
CHATS = [[{"role": "user", "content": text}] for text in PROMPTS]


def write_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as base:
        TABLE.to_sql("your_table", base, index=False)
    base.close()


def write_arrow(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(path.parent / "saved")
    shutil.move(path.parent / "saved" / "data-00000-of-00001.arrow", path)


FILES: dict[str, Callable[[Path], object]] = {
    "table.pkl": TABLE.to_pickle,
    "rows.pickle": lambda path: path.write_bytes(pickle.dumps(ROWS)),
    "old.pkl": lambda path: path.write_bytes(pickle.dumps(ROWS, protocol=2)),
    "t.feather": lambda path: feather.write_feather(TABLE, path),
    "data.arrow": write_arrow,
    "prompts.npy": lambda path: np.save(path, np.array(PROMPTS)),
    "rows.yaml": lambda path: path.write_text("- prompt: Say one.\n- prompt: 'Say two.'\n"),
    "semicolons.csv": lambda path: TABLE.to_csv(path, sep=";", index=False),
    "tabs.csv": lambda path: TABLE.to_csv(path, sep="\t", index=False),
    "wide.csv": lambda path: TABLE.to_csv(path, index=False, encoding="utf-16"),
    "base.db": write_sqlite,
    "texts.json": lambda path: path.write_text(json.dumps(PROMPTS)),
    "texts_over_lines.json": lambda path: path.write_text(json.dumps(PROMPTS, indent=2)),
    "chats.json": lambda path: path.write_text(json.dumps(CHATS)),
    "chats_over_lines.json": lambda path: path.write_text(json.dumps(CHATS, indent=1)),
    "chats.jsonl": lambda path: path.write_text("".join(json.dumps(c) + "\n" for c in CHATS)),
    "texts.jsonl": lambda path: path.write_text("".join(json.dumps(t) + "\n" for t in PROMPTS)),
    "keyed.json": lambda path: path.write_text(json.dumps({r["id"]: r for r in ROWS})),
    "wrapped.json": lambda path: path.write_text(json.dumps({"data": ROWS})),
    "texts": lambda path: (path.mkdir(), *((path / f"{t}.txt").write_text(t) for t in PROMPTS)),
}
"""How each is written."""
TOOLS = ("jq", "sqlite3", "iconv")
_MADE = re.compile(r"(jq -c '.+') FILE")


def answer_to(path: Path) -> str:
    """The command that the answer to a file holds."""
    try:
        (first, *_) = Reader(InputSpec((path.name,)))
    except BatchgenError as refused:
        hint = refused.hint or ""
        return hint.removeprefix("make rows of its texts: ")
    assert first.error is not None
    made = _MADE.search(first.error.message)
    assert made, first.error.message
    return f"{made[1]} {path.name} > rows.jsonl"


@pytest.mark.parametrize("name", FILES)
def test_the_command_that_is_told_makes_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    FILES[name](tmp_path / name)
    command = answer_to(tmp_path / name)
    for tool in TOOLS:
        if re.search(rf"\b{tool} -", command) and shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "PATH": path})
    (made,) = tmp_path.glob("rows.[jcp][sa][ovr]*")
    read = [*Reader(InputSpec((str(made),)))]
    assert [row.error for row in read] == [None, None]
    assert [row.prompt or row.messages[0]["content"] for row in read] == PROMPTS
