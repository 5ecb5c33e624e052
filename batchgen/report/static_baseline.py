"""The baseline people come from: `transformers.generate` over padded batches, in input order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchgen.report.workloads import WorkItem

if TYPE_CHECKING:
    import torch

__all__ = ["generate_static", "load_baseline"]


def load_baseline(path: str, dtype: str, device: str, *, dummy: bool = False) -> Any:
    """A model of transformers as it comes (sdpa), for `generate`; `dummy`: random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kwargs: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if dummy:
        config = AutoConfig.from_pretrained(path)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, **kwargs)
    elif path.endswith(".gguf"):
        folder, _, name = path.rpartition("/")
        model = AutoModelForCausalLM.from_pretrained(folder or ".", gguf_file=name, **kwargs)
    else:
        if hasattr(AutoConfig.from_pretrained(path), "quantization_config"):
            kwargs["device_map"] = {"": device}  # else some packages choose one
        model = AutoModelForCausalLM.from_pretrained(path, **kwargs)
    return (model if str(model.device) == device else model.to(device)).eval()


def generate_static(
    model: Any, work: Sequence[WorkItem], batch_size: int
) -> tuple[float, list[list[int]]]:
    """(seconds, output ids): each padded batch runs until its longest row is done.

    Every row is cut to its own length afterwards, as a script around `generate` does; EOS is
    ignored so that all peers do the same work.
    """
    import torch

    outputs: list[list[int]] = []
    start = time.perf_counter()
    for first in range(0, len(work), batch_size):
        batch = work[first : first + batch_size]
        outputs.extend(_generate_batch(model, batch))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, outputs


def _generate_batch(model: Any, batch: Sequence[WorkItem]) -> list[list[int]]:
    ids, mask = _left_padded(batch, model.device)
    longest = max(item.max_tokens for item in batch)
    generated = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=longest,
        min_new_tokens=longest,
        eos_token_id=None,
        pad_token_id=0,
    )
    rows: list[list[int]] = generated[:, ids.shape[1] :].tolist()
    return [row[: item.max_tokens] for row, item in zip(rows, batch, strict=True)]


def _left_padded(
    batch: Sequence[WorkItem], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(len(item.prompt_token_ids) for item in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)  # [num_seqs, width]
    mask = torch.zeros_like(ids)
    for row, item in enumerate(batch):
        prompt = torch.tensor(item.prompt_token_ids)
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
