"""Where the library's products add up as ours do, in one chain: there they are taken, being faster.

cuBLAS chooses a kernel by the layer's shape and the number of rows. Most of its kernels add up an
output's products in one chain from the first input to the last, as `product` does; some cut the
chain. Which do is written nowhere, so each size that steps are padded to is tried at load, on
inputs whose exact sums are nought: what is left of them is the rounding alone, and nearly every
output differs where the order does. A size that differs in a bit is left to our kernel.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.steady.cuda.product import ProductTile, multiply

__all__ = ["Layer", "library_rows", "try_library"]

_ALIGNMENT = 256
"""Bytes: cuBLAS may choose otherwise for what begins elsewhere."""
_MOST_OUTPUTS = 1 << 28
"""Of the products that are tried: half a GiB of each."""
_MOST_PADDED = 1.25
"""Rows are padded to a size at which the library keeps to the chain if it is not much larger."""
_FEWEST_PADDED = 128
"""Fewer are left to our kernel, which then reads the weights about as fast."""
_REFERENCE = ProductTile(128, 128, 64, 8, 3)

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Layer(NamedTuple):
    """What decides, with the number of rows, by which kernel the library multiplies."""

    num_outputs: int
    num_inputs: int
    has_bias: bool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None) -> Layer:
        """Of a linear layer's parameters."""
        num_outputs, num_inputs = weight.shape
        return cls(num_outputs, num_inputs, bias is not None, weight.dtype, weight.device)


_sizes: dict[Layer, tuple[int, ...]] = {}
"""Ascending numbers of rows at which the library is known to keep to the chain."""


def library_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> int | None:
    """To how many rows x [num_rows, num_inputs] may be padded for the library; None: it may not be
    taken for so many."""
    sizes = _sizes.get(Layer.of(weight, bias), ())
    num_rows = len(x)
    at = bisect_left(sizes, num_rows)
    if at == len(sizes) or x.data_ptr() % _ALIGNMENT or weight.data_ptr() % _ALIGNMENT:
        return None
    near = num_rows >= _FEWEST_PADDED and sizes[at] <= num_rows * _MOST_PADDED
    return sizes[at] if near or sizes[at] == num_rows else None


def try_library(
    layers: Iterable[Layer], sizes: Sequence[int], product: Product = functional.linear
) -> tuple[int, int]:
    """Find for each layer the `sizes` (of rows, ascending) at which `product` gives our kernel's
    bits; returns how many it does, and of how many. Where memory is short none is taken."""
    equal, tried = 0, 0
    for layer in layers:
        if layer.dtype.itemsize == 2:
            some = [size for size in sizes if size * layer.num_outputs <= _MOST_OUTPUTS]
            try:
                _sizes[layer] = _equal_sizes(layer, some, product)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                _sizes[layer] = ()
            equal, tried = equal + len(_sizes[layer]), tried + len(some)
    return equal, tried


@torch.inference_mode()
def _equal_sizes(layer: Layer, sizes: Sequence[int], product: Product) -> tuple[int, ...]:
    if not sizes:
        return ()
    x, weight = _cancelling(layer, sizes[-1])
    bias = None
    if layer.has_bias:  # of the size of what is left: a larger one would hide that
        bias = multiply(x[:1], weight, None, _REFERENCE)[0]
    wanted = multiply(x, weight, bias, _REFERENCE)
    # One wait for the device, at the end.
    alike = torch.stack([(product(x[:n], weight, bias) == wanted[:n]).all() for n in sizes])
    return tuple(size for size, same in zip(sizes, alike.tolist(), strict=True) if same)


def _cancelling(layer: Layer, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [num_rows, num_inputs] and a weight; each product has its opposite in the same chain."""
    generator = torch.Generator(layer.device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": layer.device}
    x = torch.randn(num_rows, layer.num_inputs, **options, dtype=layer.dtype)
    weight = torch.randn(layer.num_outputs, layer.num_inputs, **options, dtype=layer.dtype)
    order = torch.randperm(layer.num_inputs, **options)
    half = layer.num_inputs // 2
    first, second = order[:half], order[half : 2 * half]
    x[:, second] = -x[:, first]
    weight[:, second] = weight[:, first]
    return x, weight
