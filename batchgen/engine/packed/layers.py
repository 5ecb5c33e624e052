"""Modules over packed weights: they stand where nn.Linear and nn.Embedding stood."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from batchgen.engine.packed.product import PackedProduct
from batchgen.engine.packed.weight import PackedWeight
from batchgen.engine.weights import HELD_BYTES, hollow_values

__all__ = ["PackedEmbedding", "PackedLayer", "has_packed", "hollow", "unrounded"]


def hollow(weight: torch.Tensor, held_bytes: int | None = None) -> nn.Parameter:
    """A parameter whose shape, dtype and device can be asked for, and nothing else. `held_bytes`:
    what stands for it."""
    parameter = nn.Parameter(hollow_values(weight.shape, weight.dtype), requires_grad=False)
    setattr(parameter, HELD_BYTES, held_bytes)
    return parameter


class PackedLayer(nn.Module):
    """x weight^T + bias."""

    def __init__(self, linear: nn.Linear, product: PackedProduct) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = hollow(linear.weight, sum(part.data.nbytes for part in product.weights))
        self.bias = linear.bias
        self.product = product
        self.exact = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]."""
        return self.product.plain(x, exact=True) if self.exact else self.product(x)


class PackedEmbedding(nn.Embedding):
    """A table that dequantises the rows that are asked for."""

    def __init__(self, table: nn.Embedding, packed: PackedWeight) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        self.weight = hollow(table.weight, packed.data.nbytes)
        self.packed = packed

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [...] -> [..., embedding_dim]."""
        return self.packed.rows(ids, self.weight.dtype)


def has_packed(module: nn.Module) -> bool:
    """Whether any layer computes with a packed weight."""
    return any(isinstance(part, PackedLayer | PackedEmbedding) for part in module.modules())


@contextmanager
def unrounded(module: nn.Module) -> Iterator[None]:
    """Inside, layers dequantise their weights and leave their rows as they are."""
    layers = [part for part in module.modules() if isinstance(part, PackedLayer)]
    for layer in layers:
        layer.exact = True
    try:
        yield
    finally:
        for layer in layers:
            layer.exact = False
