"""A checkpoint's experts in MXFP4: checked by the names and shapes of its tensors before any is
read, packed on a device, and proven there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from batchgen.engine.mixture.form import Gate, Sizes
from batchgen.engine.mixture.four_bits import RUN, dense_blocks
from batchgen.engine.mixture.packed import Blocks, Stored, pack_experts
from batchgen.engine.mixture.proof import ERRORS, Asked, disproof
from batchgen.engine.mixture.rounded import biases_of
from batchgen.engine.quantization.linear import kept
from batchgen.engine.quantization.stored import StoredTensor
from batchgen.errors import ModelRefusedError

__all__ = ["PARTS", "STACKS", "check_blocks", "put_packed"]

STACKS = ("gate_up_proj", "down_proj")
PARTS = ("blocks", "scales")
"""A stack's tensors are called after it: `gate_up_proj_blocks`."""


def check_blocks(model: str, tensors: Mapping[str, StoredTensor], name: str, sizes: Sizes) -> None:
    """Raises ModelRefusedError where a layer's tensors are missing or do not fit its sizes."""
    wanted = (2 * sizes.width, sizes.hidden), (sizes.hidden, sizes.width)
    for stack, (outputs, inputs) in zip(STACKS, wanted, strict=True):
        shape = [sizes.num_experts, outputs, -(-inputs // RUN)]
        for part, found in zip(PARTS, ([*shape, RUN // 2], shape), strict=True):
            full = f"{name}.{stack}_{part}"
            if full not in tensors:
                raise _refused(model, f"lacks {full!r}")
            tensor = tensors[full]
            if tensor.get_shape() != found or tensor.get_dtype() != "U8":
                said = f"{tensor.get_dtype()} {tensor.get_shape()}"
                raise _refused(model, f"has {full!r} as {said}, not as U8 {found}")


@torch.no_grad()
def put_packed(
    module: Any, name: str, tensors: Mapping[str, StoredTensor], form: tuple[Sizes, Gate],
    asked: Asked, counts: tuple[int, ...],
) -> str | None:  # fmt: skip
    """Give the module its experts, packed; dense ones where that is not proven for so many
    rows, and why."""
    sizes, gate = form
    part: Any = module.get_submodule(name)
    one, two = biases_of(part, gate)
    biases = (_moved(one, asked.device), _moved(two, asked.device))
    blocks = Blocks(*_read(tensors, name, asked.device), biases, gate)
    try:
        layer = pack_experts(blocks).eval()
    except ValueError as error:
        reason: str | None = str(error)
    else:
        reason = disproof(layer, blocks.oracle, asked, counts, ERRORS[asked.dtype])
    if reason is None:
        module.set_submodule(name, layer)
        return None
    _put_dense(part, blocks, sizes, asked.dtype)
    return reason


def _moved(bias: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if bias is None else bias.detach().to(device)


def _read(
    tensors: Mapping[str, StoredTensor], name: str, device: torch.device
) -> tuple[Stored, Stored]:
    def read(stack: str) -> Stored:
        parts = (tensors[f"{name}.{stack}_{part}"][...].to(device) for part in PARTS)
        return Stored(*parts)

    return read(STACKS[0]), read(STACKS[1])


def _put_dense(part: Any, blocks: Blocks, sizes: Sizes, dtype: torch.dtype) -> None:
    """As transformers would have it: gates and ups as the checkpoint has them."""
    for stack, stored in zip(STACKS, (blocks.gate_up, blocks.down), strict=True):
        pairs = zip(stored.blocks, stored.scales, strict=True)
        found = torch.stack([dense_blocks(one, two).to(dtype) for one, two in pairs])
        found = found.transpose(1, 2).contiguous() if sizes.transposed else found
        setattr(part, stack, kept(found))


def _refused(model: str, what: str) -> ModelRefusedError:
    return ModelRefusedError(
        f"model {model!r} {what}",
        "the checkpoint is incomplete or of another scheme than it says; fetch it again",
    )
