"""How a job's model holds its weights: part of what its completions depend on."""

from __future__ import annotations

from batchgen.gguf.weights_kept import PLAIN, decide_quantization
from batchgen.job.model.files import ModelFiles
from batchgen.job.spec import JobSpec

__all__ = ["quantization_of"]


def quantization_of(spec: JobSpec, files: ModelFiles | None) -> str:
    """`--quantization`, or what it is where nobody gave it: `gguf` or `none`."""
    if files is None or spec.tensor_parallel > 1:
        return spec.quantization or PLAIN
    given = "auto" if spec.devices in (None, "all") else spec.devices
    return decide_quantization(
        spec.quantization or (PLAIN if spec.deterministic else None),
        files.path,
        devices=[spec.device] if spec.devices is None else str(given).split(","),
        dtype=spec.dtype,
        has_adapters=bool(spec.input.adapters),
    )
