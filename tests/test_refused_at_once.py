"""What cannot run says the truth before anything heavy is imported: 2, and what mends it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from echo_runs import batchgen_command, environment, write_rows
from safetensors.numpy import save_file
from test_model_files import model_folder, write_gguf

from batchgen import devices
from batchgen.engine.checkpoint.quiet import quiet_thread
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.job.model.files import resolve_model

TOKENIZER = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]}


def gguf(path: Path, **metadata: Any) -> Path:
    return write_gguf(path, {"general.architecture": "llama", **TOKENIZER, **metadata})


def test_a_gguf_of_an_architecture_that_is_not_served_is_named(tmp_path: Path) -> None:
    files = resolve_model(str(gguf(tmp_path / "x.gguf", **{"general.architecture": "rwkv9"})))
    with pytest.raises(
        ModelRefusedError, match=r"'rwkv9' is not served; served: .*llama"
    ) as refused:
        files.check_loadable()
    assert "transformers folder" in (refused.value.hint or "")


def test_a_gguf_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"})
    with pytest.raises(ModelRefusedError, match="holds no tokenizer"):
        resolve_model(str(path)).check_supported()


def test_a_lora_adapter_is_named_as_what_it_is_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "me/base"})
    )
    with pytest.raises(
        ModelRefusedError, match=r"a LORA adapter .* base model is me/base"
    ) as found:
        resolve_model(str(tmp_path))
    assert f"merged')\" '{tmp_path}'" in (found.value.hint or "")


def test_an_adapter_beside_a_models_weights_is_not_ignored(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    resolve_model(str(folder))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelRefusedError, match="beside the model's weights and would not be"):
        resolve_model(str(folder))


@pytest.mark.parametrize("name", ["mps", "xpu:1", "abacus", "cuda:x", "CUDA", ""])
def test_a_device_that_is_none_of_ours_is_one_clear_line(name: str) -> None:
    with pytest.raises(UsageError, match=f"device '{name}' is (not served|unknown)"):
        devices.check_device(name)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with a driver that sees two GPUs, and torch built for them."""

    def count(number: Any) -> int:
        number._obj.value = driver.gpus
        return 0

    driver = SimpleNamespace(gpus=2, cuInit=lambda flags: driver.begun, cuDeviceGetCount=count)
    driver.begun, driver.build = 0, "cu130"
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"2.13.0+{driver.build}")
    monkeypatch.setattr(devices, "_NODES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver


def test_cuda_is_refused_where_it_is_known_to_be_absent(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda", "cuda:1", "cpu", "auto"):
        devices.check_device(name)
    with pytest.raises(UsageError, match="sees 2 CUDA devices"):
        devices.check_device("cuda:2")
    machine.gpus = 0
    with pytest.raises(UsageError, match="driver sees no GPU"):
        devices.check_device("cuda")
    machine.begun = 100
    with pytest.raises(UsageError, match="driver sees no GPU"):
        devices.check_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="hides every GPU"):
        devices.check_device("cuda")
    machine.build = "cpu"
    with pytest.raises(UsageError, match="build for CPUs alone"):
        devices.check_device("cuda:0")
    machine.build = "rocm7"  # torch calls AMD's devices cuda; it is for torch to tell
    devices.check_device("cuda")


def test_a_gpus_node_is_enough_to_go_on(machine: SimpleNamespace, tmp_path: Path) -> None:
    machine.begun = 100
    (tmp_path / "nvidia0").touch()
    devices.check_device("cuda")


def test_without_a_driver_it_is_said_so(
    machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(devices.ctypes, "CDLL", absent)
    with pytest.raises(UsageError, match="no NVIDIA driver") as refused:
        devices.check_device("cuda")
    assert "--device cpu" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "words", [("--device", "mps"), ("--model", "adapter"), ("--model", "m.gguf")]
)
def test_the_command_ends_with_2_and_two_lines_and_imports_no_torch(
    tmp_path: Path, words: tuple[str, str]
) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}])
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    gguf(tmp_path / "m.gguf", **{"general.architecture": "abacus"})
    command = batchgen_command("run", "--in", rows, "--out", "out.parquet", *words)
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    result = subprocess.run(
        [*command],
        cwd=tmp_path,
        env=environment(PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2, result.stderr
    first, second = result.stderr.splitlines()
    assert first.startswith("batchgen: ")
    assert second.startswith("  next: ")


def test_a_quiet_thread_silences_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that another thread tells while a model loads reaches the terminal."""
    before = sys.stderr

    def tell() -> None:
        print("the error", file=sys.stderr)

    with quiet_thread() as outer, quiet_thread() as inner:
        print("a bar", file=sys.stderr)
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(60)
    assert (outer.getvalue(), inner.getvalue()) == ("", "a bar\n")
    assert capsys.readouterr().err == "the error\n"
    assert sys.stderr is before


def test_a_folder_that_is_not_whole_is_told_what_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelRefusedError, match="names no model_type") as refused:
        resolve_model(str(folder)).check_loadable()
    assert "no tokenizer" in str(refused.value)
    assert "no weights" in str(refused.value)
    resolve_model(str(folder)).check_loadable(whole=False)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    save_file({"a": np.zeros(100, np.float32)}, folder / "model-1.safetensors")
    with pytest.raises(ModelRefusedError, match=r"1 of the files .* \(model-2.safetensors\)"):
        resolve_model(str(folder)).check_loadable()


def test_weights_that_are_cut_off_or_a_pointer_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    weights = folder / "model.safetensors"
    save_file({"a": np.zeros(100, np.float32)}, weights)
    resolve_model(str(folder)).check_loadable()
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ModelRefusedError, match="cut off: 40 bytes"):
        resolve_model(str(folder)).check_loadable()
    weights.write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    with pytest.raises(ModelRefusedError, match="git lfs pull"):
        resolve_model(str(folder)).check_loadable()
