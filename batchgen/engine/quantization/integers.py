"""Weights as small unsigned integers: read from AWQ, GPTQ and compressed-tensors into one form.

weight[n, k] = (code[n, k] - zero[g, n]) * scale[g, n], with g the group of input k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from batchgen.engine.quantization.scheme import Scheme

__all__ = ["INTEGER_PARTS", "Integers", "read_integers", "round_to_integers"]

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each four bits of an AWQ word hold, from the lowest."""

INTEGER_PARTS = {
    "awq": (("qweight", "qzeros", "scales"), ()),
    "gptq": (("qweight", "qzeros", "scales"), ("g_idx",)),
    "gptq_v2": (("qweight", "qzeros", "scales"), ("g_idx",)),
    "pack-quantized": (
        ("weight_packed", "weight_scale"),
        ("weight_zero_point", "weight_g_idx", "weight_shape"),
    ),
}
"""Packing -> names of a layer's tensors: those that must be there, those that may."""


@dataclass(frozen=True, slots=True)
class Integers:
    """One layer's weight."""

    codes: torch.Tensor  # uint8 [num_outputs, num_inputs]
    scales: torch.Tensor  # float [num_groups, num_outputs]
    zeros: torch.Tensor  # uint8 [num_groups, num_outputs]
    groups: torch.Tensor | None = None  # int64 [num_inputs]; None: equal runs, one after the other

    @property
    def group_of(self) -> torch.Tensor:
        """int64 [num_inputs]: the group of each input."""
        if self.groups is not None:
            return self.groups
        inputs = torch.arange(self.codes.shape[1], device=self.codes.device)
        return inputs // (self.codes.shape[1] // self.scales.shape[0])

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [num_outputs, num_inputs], computed in float32 and rounded once."""
        group = self.group_of
        steps = self.codes.float() - self.zeros.float()[group].T
        weight: torch.Tensor = steps * self.scales.float()[group].T
        return weight.to(dtype)

    def in_order(self) -> tuple[Integers, torch.Tensor | None]:
        """The same weight with the inputs of a group side by side, and the order they were put in
        (None: they are already). Raises ValueError where groups have different sizes."""
        if self.groups is None:
            return self, None
        size = self.codes.shape[1] // self.scales.shape[0]
        counts = torch.bincount(self.groups, minlength=self.scales.shape[0])
        if not bool((counts == size).all()):
            raise ValueError("its groups have different numbers of inputs")
        order = torch.argsort(self.groups, stable=True)
        plain = Integers(self.codes[:, order], self.scales, self.zeros)
        still = torch.equal(order, torch.arange(len(order), device=order.device))
        return plain, None if still else order


def read_integers(parts: Mapping[str, torch.Tensor], scheme: Scheme) -> Integers:
    """`parts`: a layer's tensors, by the names that follow the layer's own."""
    readers = {"awq": _awq, "gptq": _gptq, "gptq_v2": _gptq, "pack-quantized": _compressed}
    return readers[scheme.packing](parts, scheme)


def _awq(parts: Mapping[str, torch.Tensor], scheme: Scheme) -> Integers:
    """Words along the outputs, eight of which lie in an order of AWQ's own."""
    codes, zeros = (_restored(_unpacked(parts[name], 4, 1)) for name in ("qweight", "qzeros"))
    return Integers(codes.T.contiguous(), parts["scales"], zeros)


def _restored(values: torch.Tensor) -> torch.Tensor:  # [rows, columns]
    place = torch.tensor(_AWQ_ORDER, device=values.device).argsort()
    columns: torch.Tensor = values.unflatten(1, (-1, len(_AWQ_ORDER)))[..., place]
    return columns.flatten(1)


def _gptq(parts: Mapping[str, torch.Tensor], scheme: Scheme) -> Integers:
    """Codes in words along the inputs, zero points along the outputs: less one, before v2."""
    codes = _unpacked(parts["qweight"], scheme.bits, 0).T.contiguous()
    zeros = _unpacked(parts["qzeros"], scheme.bits, 1)
    if scheme.packing == "gptq":
        zeros = (zeros + 1) & (2**scheme.bits - 1)  # AutoGPTQ's own wraps around too
    groups = _groups(parts.get("g_idx"), codes, scheme)
    return Integers(codes, parts["scales"], zeros, groups)


def _compressed(parts: Mapping[str, torch.Tensor], scheme: Scheme) -> Integers:
    """Signed numbers, stored with half of their range added: codes in words along the inputs, zero
    points along the outputs."""
    scales = parts["weight_scale"].T.contiguous()
    codes = _unpacked(parts["weight_packed"], scheme.bits, 1)
    shape = parts.get("weight_shape")
    if shape is not None:
        codes = codes[:, : int(shape[1])].contiguous()
    zeros = torch.full(scales.shape, 2 ** (scheme.bits - 1), dtype=torch.uint8, device=codes.device)
    stored = parts.get("weight_zero_point")
    if stored is not None and stored.dtype == torch.int32:
        zeros = _unpacked(stored, scheme.bits, 0)[: scales.shape[1]].T.contiguous()
    elif stored is not None:
        zeros = (stored.T.int() + 2 ** (scheme.bits - 1)).to(torch.uint8).contiguous()
    return Integers(codes, scales, zeros, _groups(parts.get("weight_g_idx"), codes, scheme))


def _groups(
    stored: torch.Tensor | None, codes: torch.Tensor, scheme: Scheme
) -> torch.Tensor | None:
    """Of each input; None where they are equal runs, as they are where nothing is stored or -1."""
    inputs = torch.arange(codes.shape[1], device=codes.device)
    size = scheme.group_size if scheme.group_size > 0 else len(inputs)
    runs = inputs // size
    if stored is not None and not bool((stored < 0).any()):
        groups = stored.long()
        return None if torch.equal(groups, runs) and len(inputs) % size == 0 else groups
    return None if len(inputs) % size == 0 else runs


def _unpacked(words: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """uint8: the numbers in int32 words, the lowest bits first, along `dim` of the two."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    spread = words.unsqueeze(dim + 1) >> shifts.view(-1, *[1] * (1 - dim))
    values: torch.Tensor = spread & (2**bits - 1)
    return values.to(torch.uint8).flatten(dim, dim + 1)


def round_to_integers(weight: torch.Tensor, group_size: int, bits: int = 4) -> Integers:
    """A dense weight [num_outputs, num_inputs] rounded to the nearest: each group's range, zero
    included, is cut into equal steps."""
    most = 2**bits - 1
    grouped = weight.float().unflatten(1, (-1, group_size))
    low = grouped.amin(2, keepdim=True).clamp_max(0)
    scale = ((grouped.amax(2, keepdim=True).clamp_min(0) - low) / most).clamp_min(1e-8)
    scale = scale.to(weight.dtype).float()  # as it will be stored
    zero = (-low / scale).round().clamp(0, most)
    codes = ((grouped / scale).round() + zero).clamp(0, most).to(torch.uint8).flatten(1)
    scales, zeros = (one[..., 0].T.contiguous() for one in (scale, zero))
    return Integers(codes, scales.to(weight.dtype), zeros.to(torch.uint8))
