"""Pinned memory through which steps go to the device and their tokens come back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from batchgen.engine.cuda.graph_inputs import MoreEntries

__all__ = ["Transfer", "make_transfer"]


@dataclass(slots=True)
class Transfer:
    """Pinned memory of one step on its way in and out."""

    inputs: torch.Tensor  # int32 [longest sections]
    tokens: torch.Tensor  # int32 [max_num_seqs]
    done: torch.cuda.Event
    more_entries: MoreEntries = field(default_factory=MoreEntries)


def make_transfer(num_inputs: int, num_seqs: int) -> Transfer:
    """Memory for so many words in, and so many sequences' tokens out."""
    return Transfer(
        torch.zeros(num_inputs, dtype=torch.int32, pin_memory=True),
        torch.zeros(num_seqs, dtype=torch.int32, pin_memory=True),
        torch.cuda.Event(),
    )
