"""`batchgen doctor`: quick, without torch, and with a way out of whatever it finds."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from echo_runs import loaded_modules

from batchgen.cli.command import main
from batchgen.report.machine import doctor, versions
from batchgen.report.machine.finding import State
from batchgen.report.machine.versions import EXTRAS, version_findings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_its_table_is_that_of_the_tested_versions() -> None:
    runs = [json.loads(line) for line in (ROOT / "jobs/versions.jsonl").read_text().splitlines()]
    least = dict(re.match(r"([\w-]+)>=(.+)", one).groups() for one in PROJECT["dependencies"])  # type: ignore[union-attr]
    table = versions.tested_versions()
    assert table.keys() == least.keys()
    for name, (low, high) in table.items():
        numbers = versions._numbers
        assert numbers(low)[: len(numbers(least[name]))] == numbers(least[name])
        assert numbers(high) == max(numbers(run[name]) for run in runs if name in run)


def test_it_knows_the_extras() -> None:
    known = PROJECT["optional-dependencies"]
    for extra, (package, _) in EXTRAS.items():
        assert any(one.startswith(package) for one in known[extra]), extra


def test_it_says_ready_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("ready to run\n")
    for name in ("torch", "gpu", "cpu kernels", "memory", "cache", "built-in model"):
        assert re.search(rf"^{name} ", said, re.MULTILINE), name


def test_what_is_missing_ends_with_1_and_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(versions, "version_of", {"torch": "1.0", "tqdm": "99.0"}.get)
    found = {one.name: one for one in version_findings()}
    assert (found["torch"].state, found["tqdm"].state) == (State.BAD, State.WARNING)
    assert found["pyarrow"].fix == "pip install 'pyarrow>=18.0.0'"
    assert found["[gguf]"].fix == "pip install 'batchgen-llm[gguf]'"
    assert main(["doctor", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert all(one["fix"] for one in said["findings"] if one["state"] != "ok")


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "num_gpus", lambda: 2)
    monkeypatch.setattr(doctor, "gpu_names", lambda: ["NVIDIA H200", "NVIDIA H200", "driver 580"])
    monkeypatch.setattr("batchgen.devices._build_of_torch", lambda: "cpu")
    found = {one.name: one for one in doctor.examine()}["gpu"]
    assert found.state is State.WARNING
    assert found.text.startswith("2 GPUs (NVIDIA H200, driver 580), unused: ")
    assert "pip install --force-reinstall torch" in (found.fix or "")


def test_it_imports_no_torch() -> None:
    assert not loaded_modules("doctor") & {"torch", "transformers", "pyarrow", "numpy"}
