"""Batched sampling from SmolLM2-135M-Instruct, fast enough to write a corpus in minutes.

transformers loads the weights; the forward is written out here, over one static KV cache, so that a
whole decode step with its sampling is one CUDA graph. `check` compares it with transformers' own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

__all__ = ["Teacher"]

_TEMPERATURE = 0.7
_MIN_P = 0.1
_CHECK_EVERY = 16
_ENOUGH_DONE = 0.96


class Teacher:
    """Answers `batch` prompts of at most `prompt_len` tokens at a time, `max_new` tokens each."""

    def __init__(
        self, gguf: Path, device: str, batch: int, prompt_len: int, max_new: int, eos: int
    ) -> None:
        self.device, self.dtype = device, torch.bfloat16 if device == "cuda" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=self.dtype
        ).to(device)
        config = self.model.config
        self.batch, self.prompt_len, self.max_new, self.eos = batch, prompt_len, max_new, eos
        self.kv_heads = config.num_key_value_heads
        self.heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.slots = prompt_len + max_new + (-(prompt_len + max_new)) % 8
        self._allocate(config.num_hidden_layers, float(config.rope_parameters["rope_theta"]))
        self.graph: Any = None

    def _allocate(self, num_layers: int, theta: float) -> None:
        shape = (self.batch, self.kv_heads, self.slots, self.head_dim)
        options: dict[str, Any] = {"device": self.device}
        self.keys = [torch.zeros(shape, dtype=self.dtype, **options) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=self.dtype, **options) for _ in range(num_layers)]
        inverse = theta ** -(torch.arange(0, self.head_dim, 2, **options).float() / self.head_dim)
        angles = torch.arange(self.slots, **options).float()[:, None] * inverse.repeat(2)
        self.cos, self.sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        self.start = torch.zeros(self.batch, dtype=torch.long, **options)  # left padding of a row
        self.token = torch.zeros(self.batch, 1, dtype=torch.long, **options)
        self.slot = torch.zeros(1, dtype=torch.long, **options)
        self.done = torch.zeros(self.batch, dtype=torch.bool, **options)
        self.out = torch.zeros(self.batch, self.slots, dtype=torch.long, **options)

    def _rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-right, left), dim=-1) * sin

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def forward(self, ids: torch.Tensor, slots: torch.Tensor, rows: slice) -> torch.Tensor:
        """ids [rows, T] at cache places slots [T] -> logits of the last token [rows, vocab]."""
        start = self.start[rows]
        count, length = ids.shape
        every = torch.arange(self.slots, device=self.device)
        mask = (every[None, None] <= slots[None, :, None]) & (every >= start[:, None, None])
        groups = self.heads // self.kv_heads
        # query heads of one KV head become rows of one attention call: nothing is repeated
        mask = mask[:, None, None].expand(-1, -1, groups, -1, -1)
        mask = mask.reshape(count, 1, groups * length, self.slots)
        position = (slots[None] - start[:, None]).clamp(min=0)
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        body = self.model.model
        x = body.embed_tokens(ids)
        for index, layer in enumerate(body.layers):
            x = x + self._attend(layer, index, x, slots, rows, mask, cos, sin)
            normed = self._norm(x, layer.post_attention_layernorm.weight)
            gate = F.silu(layer.mlp.gate_proj(normed))
            x = x + layer.mlp.down_proj(gate * layer.mlp.up_proj(normed))
        last = self._norm(x[:, -1], body.norm.weight)
        return F.linear(last, self.model.lm_head.weight)

    def _attend(
        self,
        layer: Any,
        index: int,
        x: torch.Tensor,
        slots: torch.Tensor,
        rows: slice,
        mask: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        count, length, _ = x.shape
        normed, attention = self._norm(x, layer.input_layernorm.weight), layer.self_attn
        shape = (count, length, -1, self.head_dim)
        query = self._rope(attention.q_proj(normed).view(shape).transpose(1, 2), cos, sin)
        key = self._rope(attention.k_proj(normed).view(shape).transpose(1, 2), cos, sin)
        value = attention.v_proj(normed).view(shape).transpose(1, 2)
        keys, values = self.keys[index][rows], self.values[index][rows]
        keys.index_copy_(2, slots, key)
        values.index_copy_(2, slots, value)
        folded = query.reshape(count, self.kv_heads, -1, self.head_dim)
        mixed = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        mixed = mixed.view(count, self.heads, length, self.head_dim).transpose(1, 2)
        return attention.o_proj(mixed.reshape(count, length, -1))

    def _sample(self, logits: torch.Tensor) -> torch.Tensor:
        scores = logits.float() / _TEMPERATURE
        floor = scores.amax(dim=-1, keepdim=True) + math.log(_MIN_P)
        noise = torch.empty_like(scores).exponential_().log()
        return (scores - noise).masked_fill(scores < floor, -math.inf).argmax(dim=-1, keepdim=True)

    def _step(self) -> None:
        self._take(self._sample(self.forward(self.token, self.slot, slice(None))))
        self.slot += 1

    def _take(self, token: torch.Tensor) -> None:
        self.token.copy_(token)
        self.out.index_copy_(1, self.slot + 1 - self.prompt_len, token)
        self.done |= token[:, 0] == self.eos

    def _prefill(self, prompts: list[list[int]]) -> None:
        padded = [[0] * (self.prompt_len - len(ids)) + ids for ids in prompts]
        lengths = torch.tensor([len(ids) for ids in prompts])
        self.start.copy_(self.prompt_len - lengths)
        ids = torch.tensor(padded).to(self.device)
        slots = torch.arange(self.prompt_len, device=self.device)
        logits = [
            self.forward(ids[at : at + 256], slots, slice(at, at + 256))
            for at in range(0, self.batch, 256)
        ]
        self.done.zero_()
        self.slot.fill_(self.prompt_len - 1)
        self._take(self._sample(torch.cat(logits)))
        self.slot += 1

    @torch.inference_mode()
    def answer(self, prompts: list[list[int]], max_new: int) -> list[list[int] | None]:
        """An answer per prompt without its end token; None where it did not end in time."""
        missing = self.batch - len(prompts)
        self._prefill(prompts + [prompts[0]] * missing)
        for step in range(max_new - 1):
            self._advance()
            if step % _CHECK_EVERY == 0 and self.done.float().mean().item() > _ENOUGH_DONE:
                break
        written = int(self.slot.item()) - self.prompt_len + 1
        rows = self.out[: len(prompts), :written].tolist()
        return [row[: row.index(self.eos)] if self.eos in row else None for row in rows]

    def _advance(self) -> None:
        if self.device != "cuda":
            return self._step()
        if self.graph is None:
            self._step()  # warms up what may not happen inside a capture
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
            return None
        return self.graph.replay()

    @torch.inference_mode()
    def check(self, prompts: list[list[int]]) -> float:
        """Largest difference of the last logits from transformers' own forward."""
        self._prefill(prompts + [prompts[0]] * (self.batch - len(prompts)))
        slots = torch.arange(self.prompt_len, device=self.device)
        worst = 0.0
        for row, ids in enumerate(prompts):
            padded = torch.tensor([[0] * (self.prompt_len - len(ids)) + ids], device=self.device)
            ours = self.forward(padded, slots, slice(row, row + 1))
            theirs = self.model(torch.tensor([ids], device=self.device)).logits[:, -1]
            worst = max(worst, (ours - theirs).abs().max().item())
        return worst
