"""A model that transformers has split over ranks, as ordinary modules with this rank's weights.

transformers' own plan says what is split and how, and its loader reads each rank's slices alone.
It then leaves `DTensor`s and a wrapped `forward` bound to each instance, which a copy of the module
would share with the original, and which neither joins, compiles nor captures well. Here the same
plan becomes plain parameters and forward hooks: a hook gets the module that runs, so copies are
whole. Sums and gathers stand where the plan has them, and the loader compares the outcome with
transformers' own forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard
from transformers.integrations.tensor_parallel import ALL_PARALLEL_STYLES

from batchgen.engine.parallel.collectives import all_gather_last, all_reduce, own_share
from batchgen.errors import ModelRefusedError

__all__ = ["make_local"]

_WIDTH = "batchgen_full_width"
_ROWS = "batchgen_first_row"
_AWAY = "batchgen_ids_elsewhere"


def make_local(module: Any) -> None:
    """In place. Raises ModelRefusedError for a way of splitting that is not known here."""
    plan: dict[str, str] = module.tp_plan
    parameters: dict[int, nn.Parameter] = {}
    for name, part in module.named_modules():
        style_name = plan.get(_generic(name))
        part.__dict__.pop("forward", None)  # transformers' wrapper
        widths = {key: p.shape for key, p in part.named_parameters(recurse=False)}
        _unwrap(part, parameters)
        if style_name is not None:
            style = ALL_PARALLEL_STYLES[style_name]
            install = _STYLES.get(type(style).__name__)
            if install is None:
                raise _unknown(module, name, style_name)
            install(part, style, widths)
    module._device_mesh = module._mesh_manager = None  # a process group cannot be copied


def _generic(name: str) -> str:
    """`layers.3.mlp` -> `layers.*.mlp`, as plans name modules."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _unwrap(part: nn.Module, parameters: dict[int, nn.Parameter]) -> None:
    """Tied weights stay tied: one DTensor becomes one parameter."""
    own: dict[str, Any] = part._parameters
    for key, parameter in own.items():
        if isinstance(parameter, DTensor):
            if id(parameter) not in parameters:
                local = parameter.to_local().detach()
                parameters[id(parameter)] = nn.Parameter(local, requires_grad=False)
            own[key] = parameters[id(parameter)]


_Widths = dict[str, torch.Size]
_Install = Callable[[Any, Any, _Widths], None]


def _colwise(part: Any, style: Any, widths: _Widths) -> None:
    part.out_features = part.weight.shape[0]
    if not isinstance(style.output_layouts, Shard):
        _gathered(part, widths["weight"][0])


def _rowwise(part: Any, style: Any, widths: _Widths) -> None:
    """The bias is added once, by the first rank."""
    if isinstance(part, nn.Embedding):  # transformers 5.17 names so what 5.24 has a style for
        return _own_rows(part, widths["weight"][0])
    part.in_features = part.weight.shape[1]
    if dist.get_rank() and part.bias is not None:
        part.register_parameter("bias", None)
    if not isinstance(style.input_layouts, Shard):
        part.register_forward_pre_hook(_take_share)
    part.register_forward_hook(_sum_output)


def _embedding(part: Any, style: Any, widths: _Widths) -> None:
    rows, width = widths["weight"]
    if style.shard_dim == 1:
        return _gathered(part, width)
    _own_rows(part, rows)


def _own_rows(part: Any, rows: int) -> None:
    """Of the table of an embedding."""
    setattr(part, _ROWS, dist.get_rank() * -(-rows // dist.get_world_size()))
    part.register_forward_pre_hook(_look_up_own)
    part.register_forward_hook(_sum_own)


def _gathered(part: Any, width: int) -> None:
    setattr(part, _WIDTH, width)
    part.register_forward_hook(_gather_output)


def _summed(part: Any, style: Any, widths: _Widths) -> None:
    part.register_forward_hook(_sum_output)


def _divided(part: Any, style: Any, widths: _Widths) -> None:
    part.register_forward_pre_hook(_divide_input)


def _alone(part: Any, style: Any, widths: _Widths) -> None:
    """Nothing crosses: the weights of this rank, or all of them, meet what this rank has."""


_STYLES: dict[str, _Install] = {
    "ColwiseParallel": _colwise,
    "RowwiseParallel": _rowwise,
    "EmbeddingParallel": _embedding,
    "AllReduceParallel": _summed,
    "MoeExpertsParallel": _summed,
    "MoeIdentityParallel": _divided,
    "PackedColwiseParallel": _alone,
    "PackedRowwiseParallel": _alone,
    "MlaKvAProjParallel": _alone,
    "ReplicatedWithGradAllReduce": _alone,
    "LocalParamsParallel": _alone,
    "TensorParallelLayer": _alone,
}
"""By the class of transformers' style; gradients are none of our business."""


def _sum_output(part: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    output = output.contiguous()
    all_reduce(output)
    return output


def _gather_output(part: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return all_gather_last(output, getattr(part, _WIDTH))


def _take_share(part: nn.Module, args: Any) -> Any:
    return own_share(args[0]), *args[1:]


def _divide_input(part: nn.Module, args: Any) -> Any:
    return args[0] / dist.get_world_size(), *args[1:]


def _look_up_own(part: Any, args: Any) -> Any:
    """Ids of other ranks' rows look up any of ours, which `_sum_own` forgets."""
    ids = args[0] - getattr(part, _ROWS)
    away = (ids < 0) | (ids >= part.weight.shape[0])
    setattr(part, _AWAY, away)
    return ids.masked_fill(away, 0), *args[1:]


def _sum_own(part: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    output = output.masked_fill(getattr(part, _AWAY)[..., None], 0)
    delattr(part, _AWAY)
    all_reduce(output)
    return output


def _unknown(module: Any, name: str, style: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"model type {module.config.model_type!r} cannot be split over several devices: its plan "
        f"has {style!r} for {name!r}, which batchgen does not know",
        "leave --tensor-parallel out, or see whether a newer batchgen knows it",
    )
