"""What a LoRA adapter's folder holds, and what would be refused: for `batchgen inspect`. No torch.

Whether it fits a model shows when that model is loaded with it: names and shapes of its layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from batchgen.errors import ModelRefusedError
from batchgen.job.model.safetensors_header import StoredTensor, read_tensors
from batchgen.lora_config import (
    WEIGHT_NAMES,
    LoraConfig,
    objections,
    read_adapter_json,
    read_lora_config,
)
from batchgen.lora_keys import copied_parameter, read_key, token_rows

__all__ = ["AdapterReport", "describe_adapter", "lines_of"]

_MOST_NAMED = 20
T = TypeVar("T")


@dataclass(slots=True)
class AdapterReport:
    """`targets`: last part of the layers' names -> how many layers have weights. `ranks`, `scales`:
    of these layers. `replaced`: weights of the model's own that it holds. `refused`: all that a run
    would refuse, none if empty."""

    path: str
    kind: str | None
    base: str | None
    rank: int | None
    alpha: float | None
    ranks: list[int] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    targets: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    weight_bytes: int = 0
    dtypes: list[str] = field(default_factory=list)
    replaced: int = 0
    refused: list[str] = field(default_factory=list)


def describe_adapter(folder: Path) -> AdapterReport:
    """Read a folder's config and its weights' header. Raises ModelRefusedError where the config is
    not there, or no JSON object."""
    config = read_adapter_json(folder)
    report = AdapterReport(
        path=str(folder),
        kind=config.get("peft_type"),
        base=config.get("base_model_name_or_path"),
        rank=config.get("r"),
        alpha=config.get("lora_alpha"),
        refused=[f"it {what}" for what in objections(config)],
    )
    checked = None
    if not report.refused:
        checked = _noting(report, lambda: read_lora_config(folder))
    weights = folder / WEIGHT_NAMES[0]
    if weights.is_file():
        _describe_weights(report, checked, weights)
    elif (folder / WEIGHT_NAMES[1]).is_file():
        report.refused.append("its weights are in a pickle, which can run code (--allow-pickle)")
    else:
        report.refused.append(f"{weights.name} is not there")
    return report


def _noting(report: AdapterReport, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ModelRefusedError as error:
        report.refused.append(_of_it(error))
        return None


def _of_it(error: ModelRefusedError) -> str:
    """Without the folder's name before it."""
    return error.message.partition(": ")[2]


def _describe_weights(report: AdapterReport, config: LoraConfig | None, path: Path) -> None:
    tensors = _noting(report, lambda: list(read_tensors(path))) or []
    report.parameters = sum(one.count for one in tensors)
    report.weight_bytes = sum(one.num_bytes for one in tensors)
    report.dtypes = sorted({one.dtype for one in tensors})
    halves: dict[str, dict[str, StoredTensor]] = {}
    unread: Counter[str] = Counter()
    for one in tensors:
        if copied_parameter(one.name) is not None or token_rows(one.name) is not None:
            report.replaced += 1  # or a copy: compared with the base model's when that is there
            continue
        try:
            layer, half = read_key(path.parent, one.name)
        except ModelRefusedError as error:
            unread[_of_it(error)] += 1
        else:
            halves.setdefault(layer, {})[half] = one
    named = list(unread)
    report.refused += named[:_MOST_NAMED]
    if len(named) > _MOST_NAMED:
        report.refused.append(f"and {len(named) - _MOST_NAMED} weights more of such kinds")
    report.targets = dict(sorted(Counter(name.rpartition(".")[2] for name in halves).items()))
    if config is not None:
        report.ranks = sorted({config.rank_of(name) for name in halves})
        report.scales = sorted({round(config.scale_of(name), 6) for name in halves})
        report.refused += _unfit(config, halves)


def _unfit(config: LoraConfig, halves: Mapping[str, Mapping[str, StoredTensor]]) -> Iterator[str]:
    if not halves and not config.saved and not config.tokens:
        yield "it holds no weights"
    for name, pair in halves.items():
        rank = config.rank_of(name)
        wrong = [f"it {what}" for what in config.misfits(name, pair)]
        if wrong:
            yield from wrong
        elif (pair["A"].shape[:1], pair["B"].shape[1:]) != ((rank,), (rank,)):
            shapes = f"{[*pair['A'].shape]} and {[*pair['B'].shape]}"
            yield f"it has {shapes} for {name}, and its rank is {rank}"


def lines_of(report: AdapterReport) -> Iterator[str]:
    """The report for a reader."""
    ranks = ", ".join(map(str, report.ranks)) or report.rank or "?"
    scales = ", ".join(f"{one:g}" for one in report.scales) or "?"
    layers = sum(report.targets.values())
    targets = ", ".join(f"{name} {count}" for name, count in report.targets.items())
    yield f"adapter       {report.kind or '?'}, rank {ranks}, alpha {report.alpha}, scale {scales}"
    yield f"base model    {report.base or '?'}"
    yield f"targets       {layers} layers: {targets or 'none'}"
    yield (
        f"weights       {report.parameters:,} values in {', '.join(report.dtypes) or 'no file'}, "
        f"{report.weight_bytes:,} bytes"
    )
    if report.replaced:
        yield f"whole         {report.replaced} weights of the model's own: no row can choose it"
    yield from (f"refused       {what}" for what in report.refused)
    if not report.refused:
        yield f"to run        batchgen run --model {report.base or 'BASE'} --adapter {report.path}"
