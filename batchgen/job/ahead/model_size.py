"""A model's size from its small files: parameters, bytes of weights, bytes of cache a token.

Weights are counted as they are loaded: float8 and 4 bits that stay so on a GPU, bitsandbytes and
torchao as they are stored, and a GGUF file's blocks where it keeps them; quantised checkpoints that
are dequantised, GGUF files on a GPU among them, at their full size; layers that the run rounds to
float8 at a byte a number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from batchgen.engine.checkpoint.quantized import described
from batchgen.engine.checkpoint.weight_files import weight_files
from batchgen.engine.experts import NUM_EXPERTS, expert_share
from batchgen.errors import ModelRefusedError
from batchgen.gguf.architectures.plan import plan_gguf
from batchgen.gguf.parts import num_bytes, own_dtype, read_gguf
from batchgen.gguf.weights_kept import PACKED, can_stay
from batchgen.job.ahead.cost import FLOAT8_RATE, ModelShape
from batchgen.job.model.files import ModelFiles, ModelKind
from batchgen.job.model.safetensors_header import read_tensors

__all__ = ["shape_of"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FOUR_BITS = {"U8": 2, "I32": 8}
"""Numbers in one of a quantised checkpoint's."""
_KEPT_PACKED = ("bitsandbytes", "torchao")
_FLOAT8 = ("F8_E4M3",)
_FLOAT8_BLOCK = (128, 128)
_MXFP4 = ("U8",)
_SCALES = re.compile(
    r"_(scale|scales|scale_inv|scale_2|zero_point|shape|absmax|quant_map|g_idx)$"
    r"|\.(scales|qzeros|g_idx)$|\.quant_state\."
)
_TABLE = re.compile(r"(embed_tokens|wte|wpe|word_embeddings|embed_in|tok_embeddings)(\.weight)?$")
_HEAD = re.compile(r"(^|\.)(lm_head|output|embed_out)\.weight$")
_EXPERT = re.compile(r"\.experts\.|_exps\.")
_OTHER_SENSES = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|mm)[\w-]*\.")
_GGUF_TABLES = ("token_embd.weight", "position_embd.weight")
_ALIASES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """`count`: numbers that it stands for. `num_bytes`: as stored, in the dtype named `stored`."""

    name: str
    count: int
    num_bytes: int
    stored: str
    stays: bool = False
    """It is loaded as it is stored."""
    shape: tuple[int, ...] = ()


def shape_of(
    files: ModelFiles,
    dtype: str,
    kv_cache_dtype: str = "auto",
    quantization: str | None = None,
    *,
    steady: bool = False,
) -> ModelShape:
    """`dtype` auto is the checkpoint's own. `quantization`: what the run makes of the weights, see
    `quantization_of`; `steady`: it is `--deterministic`, for which none stay packed. Raises
    ModelRefusedError where the files do not say."""
    if files.kind is ModelKind.GGUF:
        config, own, tensors = _of_gguf(files.path, packed=quantization == PACKED)
    else:
        config = files.config.get("text_config") or files.config
        packed = dtype != "float32" and not files.adapters and not steady
        tensors = list(_of_folder(files, packed=packed))
        own = _own_dtype(config, [one for one in tensors if one.count])
    layers, heads = _read(config, "num_hidden_layers"), _read(config, "num_attention_heads")
    if not tensors or not layers or not heads:
        raise ModelRefusedError(
            f"{files.name}: its size cannot be told from its weights' headers and config.json",
            "preview and validate work with it",
        )
    width = _BYTES[own if dtype == "auto" else dtype]
    cached = 1 if kv_cache_dtype == "fp8" else width
    extra = sum(one.weights.stat().st_size for one in files.adapters if not one.is_merged)
    rounded = {one.name for one in tensors if quantization == "fp8" and _rounds(one, config)}
    return _weighed(config, tensors, width, _cached_values(config) * cached, extra, rounded)


def _rounds(one: _Tensor, config: dict[str, Any]) -> bool:
    """Whether a run that rounds to float8 rounds it: as `engine.quantization.replacing` does, a
    layer's weight, neither the head nor what chooses among experts."""
    if one.stays or len(one.shape) < 2 or any(size % 16 for size in one.shape[-2:]):
        return False
    experts = {config.get(name) for name in NUM_EXPERTS}
    is_router = len(one.shape) == 2 and one.shape[0] in experts
    outside = _HEAD.search(one.name) or _TABLE.search(one.name) or _OTHER_SENSES.search(one.name)
    return not is_router and not outside


def _weighed(
    config: dict[str, Any],
    tensors: list[_Tensor],
    width: int,
    kv_bytes: int,
    extra: int,
    rounded: Collection[str],
) -> ModelShape:
    sizes = {
        one.name: one.num_bytes if one.stays else one.count * (1 if one.name in rounded else width)
        for one in tensors
    }
    in_float8 = sum(
        one.count for one in tensors if one.name in rounded or (one.stays and one.stored in _FLOAT8)
    )
    tied = config.get("tie_word_embeddings") or not any(_HEAD.search(one.name) for one in tensors)
    counts: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for one in tensors:
        kind = _kind(one.name, bool(tied))
        counts[kind] += one.count
        num_bytes[kind] += sizes[one.name]
    share = expert_share(config.get)
    return ModelShape(
        num_parameters=sum(n for kind, n in counts.items() if kind != "double"),
        weight_bytes=sum(n for kind, n in num_bytes.items() if kind != "double") + extra,
        active_parameters=counts["dense"] + int(counts["expert"] * share),
        dense_bytes=num_bytes["dense"],
        kv_bytes_per_token=kv_bytes,
        expert_bytes=num_bytes["expert"],
        expert_share=share,
        product_rate=FLOAT8_RATE if 2 * in_float8 > sum(counts.values()) else 1.0,
    )


def _kind(name: str, tied: bool) -> str:
    """dense, expert; unread: looked up, or of pictures and sounds; double: the head of a table."""
    if tied and _HEAD.search(name):
        return "double"
    if _OTHER_SENSES.search(name):
        return "unread"
    if _EXPERT.search(name):
        return "expert"
    is_table = _TABLE.search(name) or name in _GGUF_TABLES
    return "unread" if is_table and not tied else "dense"


def _cached_values(config: dict[str, Any]) -> int:
    """Numbers that the cache holds of one token."""
    layers, heads = _read(config, "num_hidden_layers"), _read(config, "num_attention_heads")
    if config.get("qk_nope_head_dim"):  # latent attention: the cache holds whole heads
        key = config["qk_nope_head_dim"] + config.get("qk_rope_head_dim", 0)
        return int(layers * heads * (key + config.get("v_head_dim", key)))
    size = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    return int(2 * layers * (config.get("num_key_value_heads") or heads) * size)


def _read(config: dict[str, Any], name: str) -> Any:
    return config.get(name) or config.get(_ALIASES[name])


def _own_dtype(config: dict[str, Any], tensors: list[_Tensor]) -> str:
    """As transformers finds it: the config's, else that of the weights."""
    named = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    if named in _BYTES:
        return named
    stored = Counter(_STORED[one.stored] for one in tensors if one.stored in _STORED)
    return stored.most_common(1)[0][0] if stored else "bfloat16"


def _of_gguf(path: Path, *, packed: bool) -> tuple[dict[str, Any], str, list[_Tensor]]:
    """Raises ModelRefusedError for what a run would refuse."""
    file = read_gguf(path)
    stays = {name for name, info in file.tensors.items() if packed and can_stay(info)}
    tensors = [
        _Tensor(name, prod(info.shape), num_bytes(file.homes[name], name, info), PACKED, stays=True)
        if name in stays
        else _Tensor(name, prod(info.shape), 0, "")
        for name, info in file.tensors.items()
    ]
    own = "float32" if packed else own_dtype(file)  # as load_gguf decides
    return plan_gguf(file).layout.config, own, tensors


def _of_folder(files: ModelFiles, *, packed: bool) -> Iterator[_Tensor]:
    """From the headers of safetensors files; of pickles their sizes alone are known. Scales stand
    for no number, and take room only where what they belong to stays. `packed`: weights stay
    packed, as far as their scheme is one that does."""
    folder = files.path
    names = weight_files(folder)
    held, staying = _stored(files)
    for path in names:
        for one in read_tensors(path):
            is_scale = _SCALES.search(one.name) is not None
            count = 0 if is_scale else one.count * held.get(one.dtype, 1)
            stays = staying is None
            if staying and packed and (staying is _MXFP4 or not _EXPERT.search(one.name)):
                stays = is_scale or one.dtype in staying
            yield _Tensor(one.name, count, one.num_bytes, one.dtype, stays, one.shape)
    for path in () if names else sorted(folder.glob("pytorch_model*.bin")):
        size = path.stat().st_size
        yield _Tensor(path.name, size // 2, size, "")


def _stored(files: ModelFiles) -> tuple[dict[str, int], Collection[str] | None]:
    """Numbers of a weight in one that is stored, by its type; and the types that stay as they are
    on a GPU, None: all."""
    found = described(files.path, files.config)
    if found is None:
        return {}, ()
    if found.scheme is not None and found.scheme.kind == "integer":
        bits = found.scheme.bits
        return {**_FOUR_BITS, "I32": 32 // bits}, ("I32",) if bits == 4 else ()
    if found.scheme is not None:
        stay = found.scheme.kind == "float8" and found.scheme.block in (None, _FLOAT8_BLOCK)
        return _FOUR_BITS, _FLOAT8 if stay else ()
    if found.method in _KEPT_PACKED:
        return _FOUR_BITS, None
    return _FOUR_BITS, _MXFP4 if found.method == "mxfp4" else ()
