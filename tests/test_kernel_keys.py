"""A kernel's key in Triton's cache: the same in every process, whatever it launched before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "batchgen"

KEYS = """
import importlib, json, sys
from triton.runtime.jit import DependenciesFinder, JITFunction

def update_hash(self, called):  # as before Triton 3.8: what is called has no constants yet
    self.used_global_vals.update(called.used_global_vals)
    self.hasher.update(called.cache_key.encode())

DependenciesFinder._update_hash = update_hash
step, names = int(sys.argv[1]), json.loads(sys.argv[2])
modules = [importlib.import_module(name) for name in names]
kernels = {
    f"{module.__name__}.{name}": value
    for module in modules
    for name, value in vars(module).items()
    if isinstance(value, JITFunction) and value.__module__ == module.__name__
}
print(json.dumps({name: kernels[name].cache_key for name in list(kernels)[::step]}))
"""


def keys(step: int, modules: list[str]) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", KEYS, str(step), json.dumps(modules)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_kernel_has_one_key_whichever_kernel_was_launched_first() -> None:
    pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")
    files = [file for file in sorted(ENGINE.rglob("*.py")) if "@triton.jit" in file.read_text()]
    modules = [".".join(file.relative_to(ENGINE.parent).with_suffix("").parts) for file in files]
    forwards, backwards = keys(1, modules), keys(-1, modules)
    assert len(forwards) > 60
    assert forwards == backwards
