"""Triton's interpreter, for machines without a GPU: in a process of its own, because Triton decides
at its first import."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DIRECT = INTERPRETED or torch.cuda.is_available()
direct = pytest.mark.skipif(not DIRECT, reason="runs in the interpreter's process")
spawns = pytest.mark.skipif(DIRECT, reason="the tests run directly")


def patch_once() -> None:
    """Triton's language is made numpy's for a kernel's time, and again at each call of a function
    within: without any effect, but a third of all time."""
    interpreter: Any = pytest.importorskip("triton.runtime.interpreter")
    patch, language = getattr(interpreter, "_patch_lang", None), interpreter.tl
    if patch is None:
        return
    patched: set[int] = set()

    @functools.wraps(patch)
    def patch_unless_done(function: Any) -> Any:
        seen = {id(one) for one in function.__globals__.values()}
        asked = seen & {id(language), id(language.core)}
        if asked <= patched:
            return interpreter._LangPatchScope()
        scope = patch(function)
        restore = scope.restore

        def restored() -> None:
            patched.difference_update(asked)
            restore()

        scope.restore = restored
        patched.update(asked)
        return scope

    interpreter._patch_lang = patch_unless_done


def take_masks_of_integers() -> None:
    """Numbers of lanes that numpy made int32 on the way are still true or false; loads and stores
    refuse them as masks."""
    builder: Any = pytest.importorskip("triton.runtime.interpreter").InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def of_booleans(mask: Any) -> Any:
        mask.data = mask.data.astype(bool)
        return mask

    def masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return load(self, ptrs, of_booleans(mask), *rest, **named)

    def masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return store(self, ptrs, value, of_booleans(mask), *rest, **named)

    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store


def round_float8_as_devices_do() -> None:
    """Its own rounding loses a carry (of 126 it makes 64), what is below 2^-6, and NaN."""
    interpreter: Any = pytest.importorskip("triton.runtime.interpreter")
    convert, language = interpreter._convert_float, interpreter.tl
    kinds = {language.float32: torch.float32, language.float16: torch.float16}
    float8 = language.float8e4nv

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == float8 and target in kinds:
            values = torch.from_numpy(data.view("uint8").copy()).view(torch.float8_e4m3fn)
            bits = values.to(kinds[target]).numpy()
            return bits.view(f"uint{target.primitive_bitwidth}")
        if target == float8 and source in kinds:
            values = torch.from_numpy(data.copy()).float().clamp(-448, 448)
            return values.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        return convert(data, source, target, rounding)

    interpreter._convert_float = convert_float


if INTERPRETED:
    patch_once()
    round_float8_as_devices_do()
    take_masks_of_integers()


def run_interpreted(*files: str, only: str = "") -> None:
    """The tests of these files that need no GPU, interpreted."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not cuda"),
            *("-k", only, *files),
        ],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=230,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
