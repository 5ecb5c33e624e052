"""GPU kernels are compiled ahead for what the model will need, once, and nothing depends on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.kernel_shapes import kernel_shapes
from batchgen.engine.loader import load_model_from
from batchgen.startup import kernels

KERNELS = {"attention_kernel", "plan_kernel", "write_kernel", "scan_kernel", "choose_kernel"}


@pytest.mark.parametrize(
    "model_type", ["gpt2", "llama", "qwen3", "mistral", "gemma2", "gpt_oss", "mixtral", "phi3"]
)
def test_the_shapes_read_off_a_config_are_those_that_discovery_finds(model_type: str) -> None:
    module = tiny_model(model_type)
    shapes = kernel_shapes(module.config.to_dict(), dtype="float32")
    assert shapes is not None
    assert shapes["vocab_size"] == module.config.vocab_size
    names = ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "sliding_window", "softcap")
    guessed = {tuple(layer[name] for name in names) for layer in shapes["layers"]}
    found = load_model_from(module, ReferenceBackend()).specs
    seen = {tuple(getattr(spec, name) for name in names) for spec in found}
    assert seen <= guessed, "both kinds are guessed where the config does not name the layers"
    assert len(guessed) <= 2
    assert {layer["has_sinks"] for layer in shapes["layers"]} == {s.has_sinks for s in found}


def test_a_config_that_says_too_little_is_left_alone() -> None:
    assert kernel_shapes({"model_type": "llama"}) is None
    known = {"num_attention_heads": 4, "hidden_size": 64, "vocab_size": 99}
    assert kernel_shapes(known, dtype="auto", kv_cache_dtype="fp8") is not None
    assert kernel_shapes(known | {"dtype": "float64"}) is None


def test_every_kernel_of_a_layer_is_called_without_importing_transformers() -> None:
    """Interpreted, on the CPU: each call must run."""
    code = """if True:
        import sys, torch
        from batchgen.engine.attention.interface import AttentionSpec
        from batchgen.engine.triton_ahead import kernel_calls, sampler_calls
        spec = AttentionSpec(0, 4, 2, 16, 16, 0.25, sliding_window=9, softcap=2.0, has_sinks=True)
        device = torch.device("cpu")
        calls = [*kernel_calls(spec, torch.float32, torch.float32, 16, device)]
        calls += sampler_calls(50, torch.float32, device)
        for call in reversed(calls):
            call()
        print(len(calls), "transformers" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ) | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["9", "False"], done.stderr


def test_kernels_are_compiled_once_for_a_model_and_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "compiles_nothing.py").write_text(
        "import pathlib, sys\nfile = pathlib.Path(sys.argv[2])\n"
        "file.parent.mkdir(exist_ok=True)\nfile.write_text(sys.argv[1])\n"
    )
    monkeypatch.setattr(kernels, "_MODULE", "compiles_nothing")
    shapes = {"layers": [], "vocab_size": 9}
    assert kernels.compile_kernels(shapes, "auto", 90)
    kernels.wait_for_kernels()
    (done,) = (tmp_path / "triton").glob("batchgen-*")
    assert json.loads(done.read_text()) == shapes | {"device": "cuda"}
    assert not kernels.compile_kernels(shapes, "auto", 90)
    assert kernels.compile_kernels(shapes, "auto", 80), "another GPU needs its own"
    kernels.wait_for_kernels()


@pytest.mark.cuda
def test_after_it_a_first_run_compiles_none_of_them(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 999}
    config |= {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"intermediate_size": 512, "num_hidden_layers": 2, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = """if True:
        import json, sys, triton
        from pathlib import Path
        from batchgen.engine.triton_ahead import compile_ahead
        from batchgen.engine.config import EngineConfig
        from batchgen.engine.factory import load_engine
        from batchgen.engine.kernel_shapes import kernel_shapes
        from batchgen.report.bench import run_work
        from batchgen.report.workloads import nano
        folder = Path(sys.argv[1])
        if sys.argv[2] == "ahead":
            shapes = kernel_shapes(json.loads((folder / "config.json").read_text()))
            compile_ahead(shapes | {"device": "cuda"})
            sys.exit()
        def listener(*, src, cache_hit, **_):
            if not cache_hit:
                print("compiled", getattr(src, "name", src))
        triton.knobs.compilation.listener = listener
        config = EngineConfig(folder, device="cuda", load_format="dummy")
        run_work(load_engine(config), nano(rows=20, vocab=900))
    """
    settings = dict(os.environ) | {"TRITON_CACHE_DIR": str(tmp_path / "triton")}
    for word in ("ahead", "run"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), word],
            env=settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    compiled = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("compiled")}
    assert not compiled & KERNELS
    assert torch.cuda.is_available()
