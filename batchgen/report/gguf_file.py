"""What a `.gguf` file says, and what becomes of it: for `batchgen inspect`. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError, UsageError
from batchgen.gguf.architectures.plan import plan_gguf
from batchgen.gguf.parts import GgufFile, read_gguf
from batchgen.gguf.tokenizer.build import check_vocabulary
from batchgen.job.model import gguf_support
from batchgen.job.model.special_tokens import from_gguf

__all__ = ["GgufReport", "describe_gguf", "lines_of"]

_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"}
_TYPES |= {10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 28: "F64"}
_TYPES |= {16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S"}
_TYPES |= {22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0"}
_TYPES |= {39: "MXFP4", 40: "NVFP4"}


@dataclass(frozen=True, slots=True)
class GgufReport:
    """`quantisation`: ggml's type -> values in tensors of it. `applied`, `unused`: metadata keys.

    `refused`: why a run would refuse the file, None where it would not.
    """

    path: str
    architecture: str
    model_type: str | None
    parameters: int
    quantisation: dict[str, int]
    end_tokens: dict[int, str] = field(default_factory=dict)
    applied: dict[str, Any] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    hint: str | None = None


def describe_gguf(path: Path) -> GgufReport:
    """Read `path`, all parts of it. Raises UsageError where it is no `.gguf` file, and
    ModelRefusedError where it cannot be read at all."""
    if path.suffix.lower() != ".gguf" or not path.is_file():
        raise UsageError(f"{path}: no .gguf file", "name one; `batchgen inspect types` needs none")
    file = read_gguf(path)
    about: dict[str, Any] = {
        "path": str(path),
        "architecture": str(file.metadata.get("general.architecture", "?")),
        **_weights(file),
        "end_tokens": _end_tokens(file),
    }
    try:
        gguf_support.check_tokenizer(path, file.metadata)
        plan = plan_gguf(file)
        check_vocabulary(file.metadata, path)
    except ModelRefusedError as error:
        return GgufReport(**about, model_type=None, refused=error.message, hint=error.hint)
    refused = _missing_package(file)
    return GgufReport(
        **about,
        model_type=plan.layout.config["model_type"],
        applied={name: file.metadata[name] for name in plan.used},
        unused=plan.unused,
        refused=None if refused is None else refused.message,
        hint=None if refused is None else refused.hint,
    )


def _missing_package(file: GgufFile) -> ModelRefusedError | None:
    try:
        gguf_support.check_package(file)
    except ModelRefusedError as error:
        return error
    return None


def lines_of(report: GgufReport) -> Iterator[str]:
    """The report for a reader."""
    whole = report.parameters
    shares = (f"{name} {100 * n / whole:.1f}%" for name, n in report.quantisation.items())
    served = f", served as transformers' {report.model_type}" if report.model_type else ""
    yield f"architecture  {report.architecture}{served}"
    yield f"weights       {whole:,} values: {', '.join(shares)}"
    ends = (f"{text} ({token})" for token, text in report.end_tokens.items())
    yield f"ends          {', '.join(ends) or 'none: rows end at max_tokens'}"
    yield from (f"applied       {name} = {_short(v)}" for name, v in report.applied.items())
    yield from (f"no effect     {name}: {reason}" for name, reason in report.unused.items())
    if report.refused is not None:
        yield f"refused       {report.refused}"
        yield f"              {report.hint}"


def _weights(file: GgufFile) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for info in file.tensors.values():
        counts[_TYPES.get(info.kind, str(info.kind))] += math.prod(info.shape)
    return {"parameters": counts.total(), "quantisation": dict(counts.most_common())}


def _end_tokens(file: GgufFile) -> dict[int, str]:
    tokens = file.metadata.get("tokenizer.ggml.tokens") or []
    ends = from_gguf(file.metadata).eos_token_ids
    return {one: tokens[one] if one < len(tokens) else "?" for one in ends}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
