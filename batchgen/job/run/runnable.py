"""Whether this machine can run a job at all, asked before anything of it is made."""

from __future__ import annotations

from batchgen.devices import check_device
from batchgen.job.model.files import ModelFiles
from batchgen.job.spec import JobSpec

__all__ = ["check_runnable"]


def check_runnable(spec: JobSpec, files: ModelFiles | None) -> None:
    """Raises UsageError for a device that is not there, ModelRefusedError for a model that cannot
    be loaded here."""
    if files is not None and spec.engine != "echo":
        check_device(spec.device)
        files.check_loadable()
