"""A second reading of a file's attention and rope, in float64, against the module's own.

The proof compares a module with itself, so a value that loader and forward get wrong alike would
pass it. Here one layer of each kind is computed from the file's tensors as they lie (rotary pairs
where ggml has them, nothing moved) and its metadata, by formulas of this file alone.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.gguf.values import read_values
from batchgen.errors import ModelRefusedError
from batchgen.gguf.architectures.plan import Plan

__all__ = ["check_attention"]

_FAR = 7
"""Positions grow by more than one a token, so that slow pairs turn as well."""
_TOKENS = 12
_ROWS = 64
"""Of a weight, read at a time and in float64."""
_ALLOWED = {torch.float32: 1e-3}
_LOOSE = 1e-1
_SLIDING = "sliding_attention"


@torch.no_grad()
def check_attention(module: Any, plan: Plan) -> None:
    """Raises ModelRefusedError where a layer's attention is not what the file says."""
    for layer in _layers(plan):
        name = _attention_name(plan, layer)
        inputs, output = _seen(module, module.get_submodule(name))
        wanted = _Reading(plan, layer).attention(inputs.double())
        error = float((output.double() - wanted).norm() / wanted.norm().clamp_min(1e-12))
        if not error <= _ALLOWED.get(module.dtype, _LOOSE):
            raise ModelRefusedError(
                f"{plan.file.path}: attention of layer {layer} differs from what the file says: "
                f"the relative error is {error:.2g}",
                "Name the model's transformers folder instead, and report this file's metadata.",
            )


def _layers(plan: Plan) -> list[int]:
    """The first layer of each kind."""
    kinds = _kinds(plan)
    return sorted({kinds.index(kind) for kind in kinds})


def _kinds(plan: Plan) -> list[tuple[str, bool]]:
    count = plan.layout.config["num_hidden_layers"]
    types = plan.layout.config.get("layer_types") or [""] * count
    turned = plan.layout.rope_layers or (bool(plan.layout.ropes),) * count
    return list(zip(types, turned, strict=True))


def _attention_name(plan: Plan, layer: int) -> str:
    """The submodule that owns the projection of attention's output."""
    wanted = f"blk.{layer}.attn_output.weight"
    name = next(n for n, s in plan.weights.items() if any(one.name == wanted for one in s))
    return name.rsplit(".", 2)[0]


def _positions() -> torch.Tensor:  # [1, _TOKENS]
    return (torch.arange(_TOKENS) * _FAR)[None]


def _seen(module: Any, attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What one attention module is given and gives back in a forward, [_TOKENS, hidden] each. The
    layers after it are left out."""
    seen: list[torch.Tensor] = []

    def note(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        seen.extend((given[0], output[0][0] if isinstance(output, tuple) else output[0]))
        raise _SeenError

    handle = attention.register_forward_hook(note, with_kwargs=True)
    rows = module.get_input_embeddings().weight.shape[0]
    tokens = (torch.arange(_TOKENS) * 37 + 5)[None] % rows
    limit = module.config.max_position_embeddings
    given = {"input_ids": tokens, "position_ids": _positions() % limit, "use_cache": False}
    try:  # with a mask: without one, positions that jump are taken for several sequences
        with suppress(_SeenError):
            module(attention_mask=torch.ones_like(tokens), **given)
    finally:
        handle.remove()
    return seen[0], seen[1]


class _SeenError(Exception):
    """Ends a forward: what it was run for is there."""


@dataclass(frozen=True)
class _Reading:
    """One layer as the file has it."""

    plan: Plan
    layer: int

    def number(self, name: str) -> float:
        return float(self.key(name))

    def key(self, name: str, default: Any = None) -> Any:
        architecture = self.plan.file.metadata["general.architecture"]
        value = self.plan.file.metadata.get(f"{architecture}.{name}", default)
        return value[self.layer] if isinstance(value, list) else value

    def tensor(self, name: str) -> torch.Tensor | None:
        full = self._full(name)
        return None if full is None else read_values(self.plan.file, full).double()

    def _full(self, name: str) -> str | None:
        names = (name, f"blk.{self.layer}.{name}")
        return next((one for one in names if one in self.plan.file.tensors), None)

    def linear(self, stem: str, x: torch.Tensor) -> torch.Tensor | None:
        weight, bias = self._full(f"{stem}.weight"), self.tensor(f"{stem}.bias")
        if weight is None:
            return None
        starts = range(0, self.plan.file.tensors[weight].shape[0], _ROWS)
        rows = (slice(start, start + _ROWS) for start in starts)
        parts = [x @ read_values(self.plan.file, weight, one).double().T for one in rows]
        return torch.cat(parts, dim=-1) + (0 if bias is None else bias)

    @property
    def kind(self) -> str:
        return _kinds(self.plan)[self.layer][0]

    def attention(self, x: torch.Tensor) -> torch.Tensor:  # [tokens, hidden], the same
        """Causal attention over `x`, projections included."""
        heads = self.key("attention.head_count")
        kv_heads = self.key("attention.head_count_kv", heads)
        query, key, value = self._projected(x, heads, kv_heads)
        query, key = self._normed(query, "attn_q_norm"), self._normed(key, "attn_k_norm")
        groups = heads // kv_heads
        key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query, key) * self._scale(query.shape[-1])
        cap = self._softcap()
        scores = torch.tanh(scores / cap) * cap if cap else scores
        mixed = torch.einsum("hqk,khd->qhd", self._shares(scores), value).flatten(1)
        output = self.linear("attn_output", mixed)
        assert output is not None
        return output

    def _projected(self, x: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, ...]:
        fused = self.linear("attn_qkv", x)
        if fused is not None:
            size = fused.shape[1] // (heads + 2 * kv_heads)
            parts = list(fused.split([heads * size, kv_heads * size, kv_heads * size], dim=1))
        else:
            parts = [p for n in "qkv" if (p := self.linear(f"attn_{n}", x)) is not None]
            size = parts[0].shape[1] // heads
        clip = self.key("attention.clamp_kqv", 0.0)
        parts = [part.clamp(-clip, clip) if clip else part for part in parts]
        return tuple(part.unflatten(1, (-1, size)) for part in parts)

    def _normed(self, x: torch.Tensor, stem: str) -> torch.Tensor:  # [tokens, heads, size]
        """Normed where the file has a norm, and turned; Hunyuan turns first."""
        if self._turns_first:
            return self._norm(self._turned(x), stem)
        return self._turned(self._norm(x, stem))

    @property
    def _turns_first(self) -> bool:
        return bool(self.plan.file.metadata["general.architecture"] == "hunyuan-dense")

    def _norm(self, x: torch.Tensor, stem: str) -> torch.Tensor:
        weight = self.tensor(f"{stem}.weight")
        if weight is None:
            return x
        if weight.ndim == 2:  # Cohere's: a layer norm of each head
            centred = x - x.mean(-1, keepdim=True)
            epsilon = self.number("attention.layer_norm_epsilon")
            return centred * (centred.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight
        flat = x.flatten(1) if weight.numel() != x.shape[-1] else x
        epsilon = self.number("attention.layer_norm_rms_epsilon")
        flat = flat * (flat.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight
        return flat.reshape(x.shape)

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        if not _kinds(self.plan)[self.layer][1]:
            return x
        dims = self.key("rope.dimension_count", 0) or x.shape[-1]
        angles, scale = self._angles(dims)  # [tokens, dims / 2]
        cos, sin = (angles.cos() * scale)[:, None], (angles.sin() * scale)[:, None]
        kept, rest = x[..., :dims], x[..., dims:]
        if self.plan.layout.pairs:
            first, second = kept[..., 0::2], kept[..., 1::2]
            both = (first * cos - second * sin, first * sin + second * cos)
            return torch.cat([torch.stack(both, dim=-1).flatten(-2), rest], dim=-1)
        first, second = kept[..., : dims // 2], kept[..., dims // 2 :]
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)

    def _angles(self, dims: int) -> tuple[torch.Tensor, float]:
        """Per position and pair, and what cosine and sine are multiplied with."""
        kind, base = self.key("rope.scaling.type", "linear"), self.key("rope.freq_base", 10000.0)
        factor = self.key("rope.scaling.factor", self.key("rope.scale_linear", 0.0)) or 1.0
        if self.kind == _SLIDING and self.plan.layout.config["model_type"] == "gemma3_text":
            base, kind = self.key("rope.freq_base_swa", 10000.0), "none"
        limit = self.plan.layout.config["max_position_embeddings"]
        theta = (_positions()[0] % limit).double()[:, None] * base ** (
            -torch.arange(0, dims, 2, dtype=torch.float64) / dims
        )
        if (divisors := self._divisors()) is not None:
            theta = theta / divisors
        scale = self.key("rope.scaling.attn_factor", 1.0) or 1.0
        if kind == "none" or factor == 1.0:
            return theta, scale
        if kind != "yarn":
            return theta / factor, scale
        share = self._own_share(dims, base)
        theta = theta / factor * (1 - share) + theta * share
        return theta, scale * (1 + 0.1 * math.log(factor))

    def _divisors(self) -> torch.Tensor | None:
        found = self.tensor("rope_freqs.weight")
        return self.tensor("rope_factors_short.weight") if found is None else found

    def _own_share(self, dims: int, base: float) -> torch.Tensor:
        length = self.key("rope.scaling.original_context_length", self.key("context_length"))

        def pair(turns: float) -> float:
            return dims * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

        first = max(0, math.floor(pair(self.key("rope.scaling.yarn_beta_fast", 32.0))))
        last = min(dims - 1, math.ceil(pair(self.key("rope.scaling.yarn_beta_slow", 1.0))))
        ramp = (torch.arange(dims // 2).double() - first) / max(0.001, last - first)
        return 1 - ramp.clamp(0, 1)

    def _scale(self, size: int) -> float:
        own = self.key("attention.scale", 0.0)
        large = {"gemma2": 46, "gemma3": 62}.get(self.plan.file.metadata["general.architecture"])
        if large == self.key("block_count"):
            size = self.key("embedding_length") // self.key("attention.head_count")
        return float(own or size**-0.5)

    def _softcap(self) -> float:
        capped = self.plan.file.metadata["general.architecture"] == "gemma2"
        return float(self.key("attn_logit_softcapping", 50.0)) if capped else 0.0

    def _shares(self, scores: torch.Tensor) -> torch.Tensor:  # [heads, tokens, tokens]
        """Softmax over what each token may see, with the sink that may stand beside it."""
        steps = torch.arange(scores.shape[-1])
        distance = steps[:, None] - steps[None]
        window = self.plan.layout.config["sliding_window"] if self.kind == _SLIDING else _TOKENS
        scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
        sinks = self.tensor("attn_sinks.weight")
        if sinks is None:
            return scores.softmax(dim=-1)
        column = sinks[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]
