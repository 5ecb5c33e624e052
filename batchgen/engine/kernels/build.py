"""Compiles the C kernels once per machine and loads them; without a compiler there are none.

The library is kept under the user's cache, named by everything that shapes it: sources, compiler,
CPU flags. It is linked to the OpenMP runtime that PyTorch has already loaded, so that both share
one pool of threads. `BATCHGEN_CPU_KERNEL=0` turns the kernels off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from batchgen.startup.compiler import find_compiler, kernels_wanted
from batchgen.startup.folders import cache_folder

__all__ = ["KERNEL_FLAGS", "KERNEL_SOURCES", "SOURCE_FOLDER", "load_kernels"]

_LOG = logging.getLogger(__name__)
SOURCE_FOLDER = Path(__file__).parent
_QUANT_SOURCES = ("quant_pack.c", "quant_rows.c", "quant_gemm.c")
KERNEL_SOURCES = (
    "paged.c",
    "gemm.c",
    "amx.c",
    "bf16.c",
    "int8.c",
    "int8_vnni.c",
    "ops.c",
    "stack.c",
    "draw.c",
    *_QUANT_SOURCES,
)
_QUANT_HEADERS = ("quant.h", "quant_lanes.h")
_HEADERS = (
    *("amx.h", "common.h", "int8_tiles.h", "linear.h", "levels.h", "paged.h", "rows.h", "tile.h"),
    *_QUANT_HEADERS,
)
KERNEL_FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-w"),
    "-ffp-contract=off",  # see vfma in common.h
)
_TIMEOUT_S = 300
_LOADING = threading.Lock()
"""Two threads may ask at once: the second finds what the first one compiled."""


@functools.cache
def load_kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had (said once in the log)."""
    if not kernels_wanted():
        _LOG.info("CPU kernels are turned off (BATCHGEN_CPU_KERNEL=0): using PyTorch alone")
        return None
    try:
        with _LOADING:
            return _load()
    except (OSError, subprocess.SubprocessError, _NoCompilerError) as error:
        _LOG.warning("CPU kernels are not available (%s): using PyTorch alone, slower", error)
        return None


class _NoCompilerError(Exception):
    """What is missing to compile."""


def _load() -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        raise _NoCompilerError("no C compiler: neither cc nor gcc is on the PATH")
    openmp = _openmp_runtime()
    flags = [*KERNEL_FLAGS, *_machine_flags()]
    name = f"batchgen-cpu-{_fingerprint(compiler, flags, openmp)}.so"
    folder = cache_folder()
    if folder is None:
        raise _NoCompilerError("no folder to keep the compiled library in")
    library = folder / name
    if not library.exists():
        _compile(compiler, flags, openmp, library)
    return ctypes.CDLL(str(library))


def _machine_flags() -> list[str]:
    """Flags for this very CPU. Explicit 512-bit vectors want the wide registers."""
    if platform.machine() in ("x86_64", "AMD64"):
        return ["-march=native", "-mprefer-vector-width=512"]
    return ["-mcpu=native"]


def _openmp_runtime() -> Path:
    """The OpenMP library that PyTorch's code calls. Other packages may have brought copies of their
    own into the process: asked through PyTorch's module, the loader looks among its libraries."""
    try:
        function = ctypes.CDLL(torch._C.__file__).omp_get_max_threads
        lines = Path("/proc/self/maps").read_text().splitlines()
    except (AttributeError, OSError):
        raise _NoCompilerError("cannot tell which OpenMP runtime PyTorch uses") from None
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    for line in lines:
        start, end = (int(bound, 16) for bound in line.split(maxsplit=1)[0].split("-"))
        path = Path(line.split(maxsplit=5)[-1])
        if start <= address < end and path.name.startswith(("libgomp", "libiomp5", "libomp")):
            return path
    raise _NoCompilerError("PyTorch has loaded no OpenMP runtime")


def _fingerprint(compiler: str, flags: list[str], openmp: Path) -> str:
    version = _call([compiler, "--version"])
    digest = hashlib.sha256(version.encode())
    for name in (*KERNEL_SOURCES, *_HEADERS):
        digest.update((SOURCE_FOLDER / name).read_bytes())
    digest.update(repr((flags, str(openmp), _cpu_flags())).encode())
    return digest.hexdigest()[:20]


def _cpu_flags() -> str:
    """What the CPU can do: a cache shared by unlike machines must not mix their libraries."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(keys)}))


def _compile(compiler: str, flags: list[str], openmp: Path, library: Path) -> None:
    """Compile beside the target and rename: a reader sees the whole library or none."""
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        objects = [str(Path(work) / f"{source}.o") for source in KERNEL_SOURCES]
        pairs = zip(KERNEL_SOURCES, objects, strict=True)
        commands = [[compiler, *flags, "-c", str(SOURCE_FOLDER / s), "-o", o] for s, o in pairs]
        with ThreadPoolExecutor(len(commands)) as pool:
            list(pool.map(_call, commands))
        built = str(Path(work) / "library.so")
        _call([compiler, "-shared", *objects, str(openmp), "-lm", "-o", built])
        os.replace(built, library)


def _call(command: list[str]) -> str:
    """What the compiler prints. The environment is a copy: other threads may be changing it."""
    done = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    if done.returncode:
        raise _NoCompilerError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
