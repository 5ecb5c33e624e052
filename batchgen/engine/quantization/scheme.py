"""What a `quantization_config` says of weights that batchgen reads itself; no torch.

float8: e4m3 with a scale for the tensor, for each output, or for each block of outputs and inputs.
float4: e2m1 with a scale for each output and group of 16 or 32 inputs (NVFP4, MXFP4).
integer: unsigned 4 or 8 bits, a scale and a zero point for each output and group of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Scheme", "UnknownSchemeError", "read_scheme"]

_INTEGER_BITS = {"awq": (4,), "gptq": (2, 4, 8), "pack-quantized": (4, 8)}
_BAKED = ("weight_input", "weight_output")
_FLOAT8_FORMATS = ("float-quantized", "naive-quantized")
_MX_BLOCK = (1, 32)
_FLOAT4 = {"nvfp4-pack-quantized": ("nvfp4", 16), "mxfp4-pack-quantized": ("mxfp4", 32)}
"""compressed-tensors' format -> how the codes are packed, and the inputs that share a scale."""
_AUTO_ROUND = {
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptq": "gptq",
    "auto_round": "gptq_v2",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round:auto_awq": "awq",
    "auto_round:awq": "awq",
}
"""AutoRound's packing_format -> the packing that it is."""
_CACHE_SCALES = "scales for a KV cache in 8 bits, which keeps the model's dtype"
_SKIPS = "-:"
"""Begins a rule of GPTQModel's `dynamic` for layers that are stored as they were: their tensors
say so themselves."""


class UnknownSchemeError(Exception):
    """A variant of a format that is served in others; the text says which."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the quantised layers of a checkpoint are stored."""

    kind: str
    """`float8`, `float4` or `integer`."""
    packing: str = ""
    """Of integers `awq`, `gptq`, `gptq_v2` or `pack-quantized`; of float4 `nvfp4`, `mxfp4`,
    `modelopt` or `quark`."""
    bits: int = 8
    group_size: int = -1
    """Inputs that share a scale of an output; -1: all of them."""
    block: tuple[int, int] | None = None
    """Of float8: outputs and inputs that share a scale."""
    byte_scales: bool = False
    """Of float8: scales may be bytes, which are exponents (e8m0)."""
    needed: tuple[str, ...] = ()
    """Tensors of a layer without which its numbers mean something else."""
    others: tuple[Scheme, ...] = ()
    """Of other kinds, in which some layers are: tensors say in which."""
    left_out: str = ""
    """What of the config is not applied, as a user should read it."""

    @property
    def name(self) -> str:
        """For people: `float8`, `float4`, `4-bit integer`."""
        own = f"{self.bits}-bit integer" if self.kind == "integer" else self.kind
        return " and ".join([own, *(other.name for other in self.others)])


def read_scheme(found: Mapping[str, Any]) -> Scheme | None:
    """None where the method is not one that batchgen reads.

    Raises UnknownSchemeError for a variant of one that is, which it does not.
    """
    readers = {
        "fp8": _fp8,
        "mxfp8": _mxfp8,
        "modelopt": _modelopt,
        "fbgemm_fp8": lambda told: Scheme("float8"),
        "awq": _awq,
        "gptq": _gptq,
        "auto-round": _auto_round,
        "quark": _quark,
        "compressed-tensors": _compressed,
    }
    reader = readers.get(str(found.get("quant_method")))
    has_cache = found.get("kv_cache_quant_algo") or found.get("kv_cache_scheme")
    has_cache = has_cache or (found.get("export") or {}).get("kv_cache_group")
    if reader is None or (has_cache and reader not in (_modelopt, _compressed, _quark)):
        return None
    try:
        if _turns_inputs(found):
            raise UnknownSchemeError("whose layers rotate their inputs")
        scheme = reader(found)
    except (AttributeError, KeyError, TypeError) as error:
        raise UnknownSchemeError(f"described in a form that cannot be read ({error})") from error
    if scheme is None or not has_cache:
        return scheme
    return replace(scheme, left_out=_CACHE_SCALES)


def _turns_inputs(found: Mapping[str, Any]) -> bool:
    """Whether layers are to multiply what they get, in words of Quark and AutoRound. Their other
    rotations are part of the weights."""
    told = [found.get("rotation_config"), *(found.get("algo_config") or ())]
    at_run = ("r3", "r4", "online_r1_rotation")
    given = [one for one in told if isinstance(one, Mapping)]
    return bool(found.get("hadamard_config")) or any(
        one.get(name) for one in given for name in at_run
    )


def _fp8(found: Mapping[str, Any]) -> Scheme:
    """Blocks as DeepSeek ships them, or one scale for a tensor."""
    if found.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise UnknownSchemeError(f"of the format {found['fmt']!r}")
    if found.get("expert_dtype", "fp8") != "fp8":
        raise UnknownSchemeError(f"with experts in {found['expert_dtype']!r}")
    block = _block(found.get("weight_block_size"))
    return Scheme("float8", block=block, byte_scales=found.get("scale_fmt") == "ue8m0")


def _mxfp8(found: Mapping[str, Any]) -> Scheme:
    return _fp8({"weight_block_size": _MX_BLOCK, "scale_fmt": "ue8m0", **found})


def _modelopt(found: Mapping[str, Any]) -> Scheme:
    algorithm = found.get("quant_algo")
    layers = found.get("quantized_layers")
    if algorithm == "MIXED_PRECISION" and layers:
        return _mixed([_modelopt(layer) for layer in layers.values()])
    if algorithm == "NVFP4" and found.get("group_size", 16) == 16:
        return Scheme("float4", "modelopt", 4, 16)
    if algorithm == "MXFP8":
        return Scheme("float8", block=_MX_BLOCK, byte_scales=True)
    if algorithm not in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        raise UnknownSchemeError(f"with the quant_algo {algorithm!r}")
    return Scheme("float8")


def _mixed(schemes: Iterable[Scheme]) -> Scheme:
    """One of these, the others beside it. Where two are of a kind, nothing tells which is which."""
    found = sorted(dict.fromkeys(schemes), key=lambda one: one.kind != "float8")
    if not found:
        raise UnknownSchemeError("of formats that it does not name")
    if len({one.kind for one in found}) < len(found):
        raise UnknownSchemeError("whose layers differ in their formats")
    return replace(found[0], others=tuple(found[1:]))


def _awq(found: Mapping[str, Any]) -> Scheme:
    version = str(_first(found, "version", "checkpoint_format", "format") or "gemm").lower()
    if version != "gemm":
        raise UnknownSchemeError(f"packed for {version!r}")
    bits = found.get("bits", found.get("w_bit", 4))
    return _integers("awq", "awq", bits, found.get("group_size", found.get("q_group_size", 128)))


def _gptq(found: Mapping[str, Any]) -> Scheme:
    packing = str(_first(found, "checkpoint_format", "format") or "gptq")
    if packing not in ("gptq", "gptq_v2") or found.get("is_marlin_format"):
        raise UnknownSchemeError(f"packed for {packing!r}")
    if any(not rule.startswith(_SKIPS) for rule in found.get("dynamic") or ()):
        raise UnknownSchemeError("whose layers differ in their bits")
    return _integers("gptq", packing, found.get("bits", 4), found.get("group_size", 128))


def _auto_round(found: Mapping[str, Any]) -> Scheme:
    """GPTQ's layout, whose zero points are stored less one or as they are, or AWQ's."""
    packing = found.get("packing_format")
    if packing not in _AUTO_ROUND:
        raise UnknownSchemeError(f"packed for {packing!r}")
    if found.get("data_type", "int") != "int" or (found.get("act_bits") or 16) < 16:
        raise UnknownSchemeError("of other numbers than integers, or with rounded inputs")
    whole = {name: found.get(name) for name in ("bits", "group_size", "sym")}
    for layer in (found.get("extra_config") or {}).values():
        rounded = layer.get("bits", whole["bits"]) or 16
        if rounded < 16 and any(layer.get(name, whole[name]) != whole[name] for name in whole):
            raise UnknownSchemeError("whose layers differ in their bits")
    own = _AUTO_ROUND[packing]
    method = own.removesuffix("_v2")
    return _integers(method, own, found.get("bits", 4), found.get("group_size", 128))


def _quark(found: Mapping[str, Any]) -> Scheme:
    """Its float8, and its floats of 4 bits with powers of two as scales."""
    export = found.get("export") or {}
    if export.get("weight_format", "real_quantized") != "real_quantized":
        raise UnknownSchemeError(f"of the weight_format {export['weight_format']!r}")
    told = [found.get("global_quant_config") or {}]
    told += [one for one in (found.get("layer_quant_config") or {}).values() if one]
    return _mixed(_of_quark(one["weight"]) for one in told if one.get("weight"))


def _of_quark(weight: Mapping[str, Any]) -> Scheme:
    names = ("dtype", "qscheme", "group_size", "scale_format")
    match tuple(weight.get(name) for name in names):
        case ("fp8_e4m3", "per_tensor" | "per_channel", _, _):
            return Scheme("float8")
        case ("fp4", "per_group", 32, "e8m0"):
            return Scheme("float4", "quark", 4, 32)
    told = ", ".join(f"{name} {weight.get(name)!r}" for name in names[:2])
    raise UnknownSchemeError(f"of {told}")


def _first(found: Mapping[str, Any], *names: str) -> Any:
    """By the first of these names that says anything: tools differ in what they call it."""
    return next((found[name] for name in names if found.get(name)), None)


def _integers(
    method: str, packing: str, bits: Any, group_size: Any, needed: tuple[str, ...] = ()
) -> Scheme:
    if bits not in _INTEGER_BITS[method]:
        raise UnknownSchemeError(f"of {bits!r} bits")
    size = -1 if group_size is None else group_size
    if not isinstance(size, int) or size < -1 or size == 0:
        raise UnknownSchemeError(f"in groups of {size!r}")
    return Scheme("integer", packing, int(bits), size, needed=needed)


def _compressed(found: Mapping[str, Any]) -> Scheme | None:
    """Packed integers and small floats; what else there is, its own package reads."""
    if _rotates(found):
        raise UnknownSchemeError("whose layers transform their inputs or outputs")
    groups = [group for group in (found.get("config_groups") or {}).values() if group]
    weights = [group["weights"] for group in groups if group.get("weights")]
    if not weights or len(weights) != len(groups) or found.get("sparsity_config"):
        return None
    forms = [group.get("format") or found.get("format") for group in groups]
    if any(_told(other) != _told(weights[0]) for other in weights):
        if not any(one.get("type") == "float" and one.get("num_bits") == 4 for one in weights):
            return None
        each = [_of_weights([one], form) for one, form in zip(weights, forms, strict=True)]
        if None in each:
            raise UnknownSchemeError("of 4-bit floats in some layers and other formats in others")
        return _mixed(one for one in each if one is not None)
    if weights[0].get("type") == "int" and any(group.get("input_activations") for group in groups):
        return None
    return _of_weights(weights, forms[0])


def _of_weights(weights: list[Mapping[str, Any]], form: Any) -> Scheme | None:
    """Of compressed-tensors' groups that are stored alike."""
    first = weights[0]
    kind, bits, size = (first.get(name) for name in ("type", "num_bits", "group_size"))
    if kind == "int" and form == "pack-quantized" and bits in _INTEGER_BITS["pack-quantized"]:
        return _integers("pack-quantized", "pack-quantized", bits, size, _needed(weights))
    if kind == "float" and bits == 4 and _FLOAT4.get(form, ("", 0))[1] == size:
        return Scheme("float4", _FLOAT4[form][0], 4, size)
    if kind == "float" and bits == 8 and form == "mxfp8-quantized" and size == _MX_BLOCK[1]:
        return Scheme("float8", block=_MX_BLOCK, byte_scales=True)
    if kind == "float" and bits == 8 and form in _FLOAT8_FORMATS:
        return Scheme("float8", block=_block(first.get("block_structure")))
    return None


def _needed(groups: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """What compressed-tensors stores only of some weights: without it these would be read as
    symmetric, or as groups in order."""
    zeros = all(weights.get("symmetric") is False for weights in groups)
    sorted_ = all(weights.get("actorder") in ("group", "dynamic") for weights in groups)
    return ("weight_zero_point",) * zeros + ("weight_g_idx",) * sorted_


def _block(given: Any) -> tuple[int, int] | None:
    """Also as text, `128x128`."""
    if given is None:
        return None
    sizes = given.split("x") if isinstance(given, str) else given
    try:
        rows, columns = (int(size) for size in sizes)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise UnknownSchemeError(f"in blocks of {given!r}")
    return rows, columns


def _rotates(found: Mapping[str, Any]) -> bool:
    """Whether activations (or queries and keys) are to be rotated as the model runs: the weights
    mean nothing without. What was rotated in the weights alone is theirs already."""
    groups = (found.get("transform_config") or {}).get("config_groups") or {}
    places = [one.get("location") for group in groups.values() for one in group.get("apply") or ()]
    return any(place not in _BAKED for place in places)


def _told(weights: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides how a group's weights are stored."""
    names = ("type", "num_bits", "group_size", "block_structure")
    return tuple(str(weights.get(name)) for name in names)
