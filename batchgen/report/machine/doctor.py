"""`batchgen doctor`: versions, devices, compiled code, memory, disks and caches of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from batchgen.counts import counted
from batchgen.devices import check_device, gpu_names, num_gpus
from batchgen.errors import UsageError
from batchgen.job.model.source import BUILTIN_NAME
from batchgen.report.machine.finding import Finding, State
from batchgen.report.machine.versions import version_findings
from batchgen.startup.folders import cache_folder
from batchgen.startup.host_memory import available_host_memory

__all__ = ["examine"]

_GIB = 1 << 30
_LEAST_MEMORY, _LEAST_DISK = 2 * _GIB, 2 * _GIB


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which it is shown."""
    yield from version_findings()
    yield _gpus()
    yield _compiler()
    yield _memory()
    yield from _caches()
    yield _disk("disk here", Path.cwd(), "free space, or work in another folder")
    yield _builtin()


def _gpus() -> Finding:
    """By the driver's own files and /dev; what torch would say of them is known without it."""
    count = num_gpus()
    if not count:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
        text = "none: runs go to the CPU"
        return Finding("gpu", State.OK, text + (" (CUDA_VISIBLE_DEVICES hides them)" * hidden))
    names = gpu_names()
    text = counted(count, "GPU") + (f" ({', '.join(sorted(set(names)))})" if names else "")
    try:
        check_device("cuda")
    except UsageError as error:
        return Finding("gpu", State.WARNING, f"{text}, unused: {error.message}", error.hint)
    return Finding("gpu", State.OK, text)


def _compiler() -> Finding:
    """Of the kernels for CPUs; those for GPUs bring their own."""
    folder = cache_folder()
    built = [] if folder is None else list(folder.glob("batchgen-cpu-*.so"))
    if built:
        return Finding("cpu kernels", State.OK, f"compiled ({built[-1].name})")
    if os.environ.get("BATCHGEN_CPU_KERNEL") == "0":
        text = "turned off by BATCHGEN_CPU_KERNEL=0"
        return Finding("cpu kernels", State.WARNING, text, "unset BATCHGEN_CPU_KERNEL")
    if shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc"):
        return Finding("cpu kernels", State.OK, "compiled by the first run on a CPU")
    text = "no C compiler: runs on a CPU take PyTorch alone, several times slower"
    return Finding("cpu kernels", State.WARNING, text, "apt-get install gcc, or your system's way")


def _memory() -> Finding:
    free = available_host_memory()
    text = f"{free / _GIB:.1f} GiB free, {counted(os.cpu_count() or 1, 'core')}"
    if free < _LEAST_MEMORY:
        return Finding("memory", State.WARNING, text, "end other programs, or take a small model")
    return Finding("memory", State.OK, text)


def _caches() -> Iterator[Finding]:
    folder = cache_folder()
    if folder is None:
        text = "no folder can be written: code is compiled anew in every run"
        yield Finding("cache", State.WARNING, text, "set BATCHGEN_CACHE_DIR to a folder of yours")
    else:
        yield _disk("cache", folder, "set BATCHGEN_CACHE_DIR to a larger disk")
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    yield _disk("hub cache", hub, "set HF_HOME to a larger disk")


def _disk(name: str, folder: Path, fix: str) -> Finding:
    there = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    text = f"{folder}: {free / _GIB:.1f} GiB free"
    return (
        Finding(name, State.WARNING, text, fix)
        if free < _LEAST_DISK
        else Finding(name, State.OK, text)
    )


def _builtin() -> Finding:
    folder = resources.files("batchgen").joinpath("models", BUILTIN_NAME)
    if folder.joinpath("config.json").is_file():
        return Finding("built-in model", State.OK, BUILTIN_NAME)
    fix = "pip install --force-reinstall --no-deps batchgen-llm, or clone the repository again"
    return Finding("built-in model", State.BAD, f"{BUILTIN_NAME} is not in the package", fix)
