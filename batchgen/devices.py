"""Which devices there are, told without torch: a wrong one is refused before anything is imported.

torch sees GPUs through NVIDIA's driver alone, so where the driver cannot be loaded, or says that it
has no device, torch will have none either. What cannot be told here is left to torch.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from batchgen.counts import counted
from batchgen.errors import UsageError
from batchgen.installed import version_of

__all__ = ["check_device", "check_device_name", "gpu_names", "num_gpus", "only_gpus"]

_DRIVER = "libcuda.so.1"
_NAME = re.compile(r"auto|cpu(:\d+)?|cuda(:\d+)?")
_NODES = Path("/dev")
_DRIVER_FILES = Path("/proc/driver/nvidia")
_TAKE_ANOTHER = "leave --device out to take what is there, or take --device cpu"


def check_device_name(name: str) -> None:
    """Raises UsageError for a name that is no device of batchgen's."""
    if _NAME.fullmatch(name):
        return
    known = re.fullmatch(r"(mps|xpu|hip|rocm|npu|tpu|xla|vulkan|meta)(:\d+)?", name)
    what = "not served: batchgen runs on CPUs and NVIDIA GPUs" if known else "unknown"
    raise UsageError(f"device {name!r} is {what}", "use --device auto, cpu, cuda or cuda:N")


def check_device(name: str) -> None:
    """Raises UsageError where it is known without torch that the device is not there."""
    check_device_name(name)
    if not name.startswith("cuda"):
        return
    build = _build_of_torch()
    if build.startswith("rocm"):
        return
    if build == "cpu":
        reason = "the installed torch is a build for CPUs alone"
        raise _absent(name, reason, f"`pip install --force-reinstall torch`, or {_TAKE_ANOTHER}")
    if _visible(os.environ) == []:
        value = os.environ["CUDA_VISIBLE_DEVICES"]
        reason = f"CUDA_VISIBLE_DEVICES is {value!r}, which hides every GPU"
        raise _absent(name, reason, f"unset it, or {_TAKE_ANOTHER}")
    _ask_driver(name)


def num_gpus(environ: Mapping[str, str] = os.environ) -> int:
    """GPUs that CUDA will show to this process, without asking CUDA."""
    visible = _visible(environ)
    return _num_nodes() if visible is None else len(visible)


def only_gpus(first: int, count: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What to set so that a process sees `count` GPUs alone, the one that is `first` here as its
    cuda:0: code that was compiled for one of them is then found by all."""
    every = _visible(environ)
    numbers = slice(first, first + count)
    names = every[numbers] if every is not None else list(map(str, range(first + count)))[numbers]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)}


def gpu_names() -> list[str]:
    """What NVIDIA's driver calls the machine's GPUs, and itself last; [] where it does not say."""
    names = []
    for file in sorted(_DRIVER_FILES.glob("gpus/*/information")):
        found = re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE)
        names += [found[1].strip()] if found else []
    version_file = _DRIVER_FILES / "version"
    if version_file.exists():
        found = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", version_file.read_text())
        names += [f"driver {found[1]}"] if found else []
    return names


def _visible(environ: Mapping[str, str]) -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names, as CUDA reads it: up to the first that is none.
    None where it is not set and all are seen."""
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = (part.strip() for part in value.split(","))
    return list(takewhile(lambda name: name not in ("", "-1"), names))


def _num_nodes() -> int:
    """GPUs that have a node in /dev, as in containers only those have that were handed in."""
    return sum(node.name[6:].isdecimal() for node in _NODES.glob("nvidia[0-9]*"))


def _ask_driver(name: str) -> None:
    """The driver is asked only where that is needed: to begin it takes part of a second."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        raise _absent(name, "no NVIDIA driver is installed here", _see_driver()) from None
    number = int(name.partition(":")[2] or 0)
    if number == 0 and _num_nodes():
        return
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # the driver reads it once
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise _absent(name, "the NVIDIA driver sees no GPU", _see_driver())
    if number >= count.value:
        devices = counted(count.value, "CUDA device")
        raise _absent(name, f"the NVIDIA driver sees {devices}", f"use cuda:{count.value - 1}")


def _absent(name: str, reason: str, hint: str) -> UsageError:
    return UsageError(f"device {name!r} is not there: {reason}", hint)


def _see_driver() -> str:
    return f"look at `nvidia-smi` (in a container: was it given the GPUs?), or {_TAKE_ANOTHER}"


def _build_of_torch() -> str:
    """`cpu`, `cu130`, `rocm7.1`; nothing where the version does not tell."""
    return (version_of("torch") or "").partition("+")[2]
