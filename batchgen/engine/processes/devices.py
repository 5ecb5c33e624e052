"""What `--devices` names, and which GPU a rank of torchrun or srun takes. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from batchgen.devices import check_device, num_gpus
from batchgen.errors import UsageError

__all__ = ["Device", "own_device", "parse_devices"]


@dataclass(frozen=True, slots=True)
class Device:
    """Where one process runs. `core`: of the CPU, which it then keeps to."""

    name: str
    torch_name: str
    core: int | None = None

    @property
    def number(self) -> int | None:
        """Of a GPU, as this process counts them."""
        kind, _, number = self.torch_name.partition(":")
        return int(number) if kind == "cuda" and number else None


def parse_devices(text: str, *, each: int = 1) -> list[Device]:
    """`0,1` (GPUs), `cuda:0,cuda:1`, `cpu:0,cpu:1` (cores), `all` (GPUs). Raises UsageError.

    `each`: so many share a model; the first of each such group is returned.
    """
    devices = _all_named(text)
    if each == 1:
        return devices
    for start in range(0, len(devices), each):
        names = [device.name for device in devices[start : start + each]]
        kind, _, number = names[0].rpartition(":")
        if kind != "cuda" or names != [f"cuda:{int(number) + i}" for i in range(each)]:
            raise UsageError(
                f"--devices: {', '.join(names)} are not {each} GPUs in a row, which share a model "
                f"under --tensor-parallel {each}",
                f"name the GPUs of each model together: {','.join(map(str, range(2 * each)))}",
            )
    return devices[::each]


def _all_named(text: str) -> list[Device]:
    if text.strip() == "all":
        gpus = num_gpus()
        if not gpus:
            raise UsageError("--devices all: no GPU was found", "name cores: --devices cpu:0,cpu:1")
        return [_device(str(number)) for number in range(gpus)]
    devices = [_device(part.strip()) for part in text.split(",")]
    names = [device.name for device in devices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--devices names {twice} twice", "one process a device")
    return devices


def _device(text: str) -> Device:
    kind, _, number = text.rpartition(":")
    if not number.isdecimal() or kind not in ("", "cuda", "cpu"):
        raise UsageError(
            f"--devices: {text!r} is no device", "write 0,1 or cuda:0,cuda:1 or cpu:0,cpu:1 or all"
        )
    if kind != "cpu":
        check_device(f"cuda:{number}")
        return Device(f"cuda:{number}", f"cuda:{number}")
    cores = os.sched_getaffinity(0)
    if int(number) not in cores:
        raise UsageError(
            f"--devices: core {number} is not this process's",
            f"it may use {','.join(f'cpu:{core}' for core in sorted(cores))}",
        )
    return Device(f"cpu:{number}", "cpu", int(number))


def own_device(device: str, environ: Mapping[str, str] = os.environ, each: int = 1) -> str:
    """The GPU of this rank under torchrun (LOCAL_RANK) or srun (SLURM_LOCALID), where `device`
    names none and the rank sees more than its own; the first one of `each` GPUs a rank."""
    rank = environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID")
    if device not in ("auto", "cuda") or rank is None or not rank.isdecimal():
        return device
    gpus = num_gpus(environ)
    return f"cuda:{int(rank) * each % (gpus // each * each)}" if gpus > each else device
