"""No warning of a dependency reaches the terminal of a command without `-v`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from echo_runs import batchgen, prompts, write_rows
from safetensors.torch import load_file, save_file

from batchgen.job.model.source import locate

NOISE = """
import logging, sys, threading, time, warnings

LOGGERS = ("transformers.modeling_utils", "torch", "torch._dynamo", "huggingface_hub.file_download",
           "datasets.builder", "accelerate.utils", "absl")

def make_noise(moment):
    for kind in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.warn(f"noise at {moment}: {kind.__name__}", kind, stacklevel=1)
    for name in LOGGERS:
        logging.getLogger(name).warning(f"noise at {moment}: {name}")
    with open(NOTES, "a") as notes:
        print(moment, file=notes)

def go_on():
    while True:
        make_noise("work")
        time.sleep(0.05)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "pyarrow":
            make_noise("import")
        elif name == "transformers.models.llama.modeling_llama":
            make_noise("load")
            threading.Thread(target=go_on, daemon=True).start()

sys.meta_path.insert(0, Finder)
"""
"""Warns as a dependency may: while it is imported, while the model loads, and from then on."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One that transformers itself has a word about: it holds a weight too many."""
    folder = tmp_path / "model"
    shutil.copytree(locate(None, None).path, folder)
    (weights,) = folder.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["left_over.weight"] = next(iter(tensors.values()))[:1].clone()
    save_file(tensors, weights, {"format": "pt"})
    return folder


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., str]:
    """What a run of two rows says on the terminal, but for its summary."""
    source = write_rows(tmp_path / "in.jsonl", prompts(2))
    hook = NOISE.replace("NOTES", repr(str(tmp_path / "notes")))
    (tmp_path / "sitecustomize.py").write_text(hook)

    def run(*flags: object) -> str:
        result = batchgen(
            *("run", "-i", source, "-o", tmp_path / "out.parquet", "--progress", "none"),
            *flags,
            PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        )
        assert result.returncode == 0, result.stderr
        assert len(result.stdout.splitlines()) == 1
        return result.stderr

    return run


@pytest.mark.parametrize("where", ["--device", "--devices"])  # a process of its own for the engine
def test_no_warning_of_a_dependency_is_seen_without_v(
    tmp_path: Path, model: Path, said: Callable[..., str], where: str
) -> None:
    device = "cpu" if where == "--device" else f"cpu:{min(os.sched_getaffinity(0))}"
    text = said("--model", model, where, device, "--max-tokens", 4, "--as-chat")
    assert text == "batchgen: 2 completions were cut by max_tokens\n"
    assert {"import", "load", "work"} == set((tmp_path / "notes").read_text().split())


def test_with_v_they_are_heard(said: Callable[..., str]) -> None:
    text = said("--engine", "echo", "-v")
    for source in ("FutureWarning", "UserWarning", "transformers", "torch", "absl"):
        assert f"noise at import: {source}" in text
