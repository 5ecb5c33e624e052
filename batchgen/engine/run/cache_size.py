"""How many KV blocks there are: measured on a GPU, a share of free memory on a CPU."""

from __future__ import annotations

import logging

import torch

from batchgen.engine.attention.interface import AttentionMetadata
from batchgen.engine.device import device_memory
from batchgen.engine.execution.step_runner import ServedModel
from batchgen.engine.memory import release_memory
from batchgen.engine.sampling.batch import SamplingBatch
from batchgen.engine.sampling.sampler import sample
from batchgen.errors import UsageError
from batchgen.startup import timeline
from batchgen.startup.host_memory import available_host_memory

__all__ = ["decide_num_blocks"]

_logger = logging.getLogger(__name__)

_HOST_SHARE = 0.25
"""Share of the memory that is free now: other processes need some too."""
_HOST_MOST = 4 << 30
_GIB = 1 << 30


def decide_num_blocks(
    model: ServedModel,
    *,
    block_size: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    gpu_memory_utilization: float,
    num_remembered: int,
) -> int:
    """As many KV blocks as memory holds, but not more than are of use: to `max_num_seqs` running
    sequences, and to the prefix cache for `num_remembered` finished ones.

    Raises UsageError when not even one block fits.
    """
    if model.device.type == "cuda":
        with timeline.span("largest step"):
            used = _measure_step(model, block_size, max_num_batched_tokens, max_num_seqs)
        total = device_memory(model.device)
        budget = int(total * gpu_memory_utilization) - used
        reason = f"{gpu_memory_utilization:.0%} of {total / _GIB:.1f} GiB less a step's peak"
    else:
        available = available_host_memory()
        budget = min(int(available * _HOST_SHARE), _HOST_MOST)
        reason = f"at most a quarter of {available / _GIB:.1f} GiB free"
    bytes_per_block = model.bytes_per_block(block_size)
    affordable = budget // max(1, bytes_per_block)
    if affordable < 1:
        raise UsageError(
            f"no memory is left for the KV cache: {budget} bytes, a block has {bytes_per_block}",
            "free memory, take a smaller model, or lower --max-num-batched-tokens",
        )
    usable = (max_num_seqs + num_remembered) * -(-max_model_len // block_size)
    num_blocks = min(affordable, usable)
    _logger.info(
        "num_blocks = %d of %d tokens, %.2f GiB: %s",
        num_blocks,
        block_size,
        num_blocks * bytes_per_block / _GIB,
        reason if affordable < usable else "all that the sequences can use",
    )
    return num_blocks


def _measure_step(
    model: ServedModel, block_size: int, max_num_batched_tokens: int, max_num_seqs: int
) -> int:
    """Bytes in use on the GPU, other processes included, at the peak of the largest step."""
    device = model.device
    model.allocate_cache(1, block_size)
    release_memory()
    free, total = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    num_seqs = min(max_num_seqs, max_num_batched_tokens)
    _run_largest_step(model, block_size, max_num_batched_tokens, num_seqs)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    release_memory()
    return total - free + 2 * peak  # twice: captured graphs have a memory pool of their own


@torch.inference_mode()
def _run_largest_step(model: ServedModel, block_size: int, num_tokens: int, num_seqs: int) -> None:
    """A step of full size that writes nothing (slot -1) and whose keys are all block 0."""
    device = model.device
    ends = [num_tokens * (i + 1) // num_seqs for i in range(num_seqs)]
    lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    cu_seqlens = torch.tensor([0, *ends], dtype=torch.int32, device=device)
    longest = max(lengths)
    metadata = AttentionMetadata(
        cu_seqlens_q=cu_seqlens,
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_tables=torch.zeros(
            num_seqs, -(-longest // block_size), dtype=torch.int32, device=device
        ),
        slot_mapping=torch.full((num_tokens,), -1, dtype=torch.int64, device=device),
        block_size=block_size,
        num_seqs=num_seqs,
        num_tokens=num_tokens,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
    )
    input_ids = torch.zeros(num_tokens, dtype=torch.int64, device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    logits_indices = cu_seqlens[1:].long() - 1
    sample(model.forward(input_ids, positions, metadata, logits_indices), SamplingBatch())
