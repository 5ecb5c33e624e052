"""Which parts of a model compute by an order of summation that may depend on the step's rows.

A step is run while every operator of PyTorch that is called is watched. What the project's own
kernels compute is not seen there: each of them sums in one order, whatever the number of rows. A
library's matrix product is seen, and it picks its kernel, and with it the order of its sums, by the
number of rows; so is a library's reduction on a GPU, whose blocks of threads are cut by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["dependent_parts"]

_LISTS = {
    "products": """matmul mm addmm bmm baddbmm addbmm mv addmv dot vdot linear einsum _grouped_mm
        _scaled_mm _int_mm convolution _linear_pointwise mkldnn_linear mkl_linear
        qlinear_pointwise scaled_dot_product_attention
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
        _weight_int4pack_mm _weight_int8pack_mm multiply_integers multiply_float8""",
    "reductions": """sum mean var var_mean std std_mean prod norm linalg_vector_norm
        native_layer_norm native_group_norm layer_norm group_norm rms_norm logsumexp _softmax
        softmax _log_softmax log_softmax cumsum _fused_rms_norm index_add scatter_add
        scatter_reduce index_reduce""",
    "uneven": "gelu silu sigmoid softplus mish elu log_sigmoid_forward",
}
_PRODUCTS, _REDUCTIONS, _UNEVEN = (frozenset(names.split()) for names in _LISTS.values())
"""In inference mode composite operators (`matmul`, `softmax`) are seen whole. Uneven are PyTorch's
on a CPU: the last values, that fill no vector, go by other code (seen with 2.13 in float32 and
bfloat16), and which are last depends on how many there are, and on the threads; so it is with
`rsqrt` of bfloat16."""


def dependent_parts(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """`MODULE: OPERATOR` for each part that `run`, a step of the module, computes so; sorted."""
    watch = _Watch()
    with _names(module, watch), watch:
        run()
    return sorted(watch.found)


class _Watch(TorchDispatchMode):
    """Notes the operators whose sums depend on the step, and in which module they ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.within: list[str] = []
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if _depends(name.removesuffix("_") if name not in _REDUCTIONS else name, args):
            self.found.add(f"{self.within[-1] if self.within else 'the model'}: {name}")
        return out


def _depends(name: str, args: tuple[Any, ...]) -> bool:
    if name in _PRODUCTS:
        return _sums(args)
    if name in _REDUCTIONS:
        return _on_gpu(args)
    on_cpu = any(isinstance(arg, torch.Tensor) and not arg.is_cuda for arg in args)
    narrow = name == "rsqrt" and args[0].dtype != torch.float32
    return on_cpu and (narrow or name in _UNEVEN)


def _sums(args: tuple[Any, ...]) -> bool:
    """Whether a product adds anything up: rotary angles are products of one term each."""
    factors = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.dim() >= 2][-2:]
    return not factors or factors[0].shape[-1] != 1 or len(factors) < 2


def _on_gpu(args: tuple[Any, ...]) -> bool:
    return any(
        isinstance(arg, torch.Tensor) and arg.is_cuda and arg.is_floating_point() for arg in args
    )


@contextmanager
def _names(module: nn.Module, watch: _Watch) -> Iterator[None]:
    """Tell the watch which module runs."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: watch.within.append(name)

    def leave(*_: Any) -> None:
        watch.within.pop()

    handles = []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(enter(name or "the model")))
        handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
