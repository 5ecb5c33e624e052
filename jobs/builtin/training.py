"""Training rows, the loss on answers alone, and the loop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from builtin.messages import Message, Writer
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

__all__ = ["Recipe", "Rows", "make_rows", "train"]

_SYSTEMS = [
    "You are a helpful assistant.",
    "Label the message.",
    "Answer as JSON.",
    "Be kind and helpful.",
    "Read the customer's message and return its label and fields as JSON.",
    "You label support messages.",
]
_RAW, _SYSTEM, _MOST_TOKENS = 0.1, 0.08, 900
_WARMUP, _WEIGHT_DECAY, _FLOOR = 0.02, 0.1, 0.02
_SWAPS, _STRAYS = (0.0, 0.05, 0.15, 0.3), (0.0, 0.0, 0.05, 0.12)
"""How often a word of a row is swapped for a near one, or for any word, drawn a row."""
_MEAN_FROM, _MEAN = 0.5, 0.998
"""The weights kept are a running mean over this last share of the steps, and how slow a one: in a
short run each of them counts alike."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to learn: `steps`, or `seconds` where that is 0; `tokens` a batch.

    `dropout`: of a block's output and of the words' vectors; `blur`: noise on these, in parts of
    their own size; `smoothing`: the share of an answer's token that all tokens divide;
    `words_rate`: of the vectors' learning rate, in parts of the other weights'."""

    device: str
    seconds: float
    steps: int
    tokens: int
    peak_lr: float
    seed: int
    dropout: float
    blur: float
    smoothing: float
    words_rate: float

    def gone(self, step: int, begin: float) -> float:
        """The share that is over; by steps the same command makes the same weights on a CPU."""
        return step / self.steps if self.steps else (time.monotonic() - begin) / self.seconds


class Rows:
    """Prompts and answers, one after the other: `ids` [num_tokens], `lengths` and `answers`
    [num_rows]: tokens of a row, and where in it the answer begins."""

    def __init__(self, ids: np.ndarray, lengths: np.ndarray, answers: np.ndarray) -> None:
        self.ids, self.answers = ids, answers
        self.bounds = np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        return len(self.answers)

    def batch(self, picked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """ids [num_picked, longest], padded by 2, and whether each is of the answer."""
        lengths = self.bounds[picked + 1] - self.bounds[picked]
        width = int(-(-lengths.max() // 16) * 16)
        at = np.arange(width)[None]
        inside = at < lengths[:, None]
        places = np.where(inside, self.bounds[picked][:, None] + at, 0)
        ids = np.where(inside, self.ids[places], 2)
        return torch.from_numpy(ids), torch.from_numpy(
            inside & (at >= self.answers[picked][:, None])
        )


def make_rows(tokenizer: Tokenizer, count: int, seed: int, names: list[str], workers: int) -> Rows:
    """`count` messages as training rows; worker w draws with seed + w."""
    jobs = [(seed + w, count // workers, names, tokenizer.to_str()) for w in range(workers)]
    with get_context("spawn").Pool(workers) as pool:
        parts = list(pool.imap(_worker, jobs))
    ids, lengths, answers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Rows(ids, lengths, answers)


def _worker(job: tuple[int, int, list[str], str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [num_tokens], lengths [num_rows], answers [num_rows]"""
    seed, count, names, tokenizer = job
    rng = random.Random(-seed - 1)
    messages = islice(Writer(seed, names).messages(), count)
    rows = list(_encoded(Tokenizer.from_str(tokenizer), messages, rng))
    ids = np.array([token for row, _ in rows for token in row], dtype=np.int16)
    return ids, np.array([len(row) for row, _ in rows]), np.array([at for _, at in rows])


def _encoded(
    tokenizer: Tokenizer, messages: Iterator[Message], rng: random.Random
) -> Iterator[tuple[list[int], int]]:
    for message in messages:
        asked = tokenizer.encode(_prompt(message.text, rng), add_special_tokens=False).ids
        answer = tokenizer.encode(message.answer + "<|end|>", add_special_tokens=False).ids
        if len(asked) <= _MOST_TOKENS:
            yield asked + answer, len(asked)


def _prompt(text: str, rng: random.Random) -> str:
    """As the chat template shows it, or bare."""
    if rng.random() < _RAW:
        return "<|begin|>" + text + rng.choice(("", "", "\n"))
    system = f"<|system|>{rng.choice(_SYSTEMS)}<|end|>" if rng.random() < _SYSTEM else ""
    return f"<|begin|>{system}<|user|>{text.strip()}<|end|><|assistant|>"


def train(model: LlamaForCausalLM, rows: Rows, neighbours: torch.Tensor, recipe: Recipe) -> float:
    """AdamW by `recipe`; returns the last 100 steps' loss (nats)."""
    device, peak_lr = recipe.device, recipe.peak_lr
    model.to(device).train()
    words = model.model.embed_tokens.weight
    others = [weight for weight in model.parameters() if weight is not words]
    groups = [
        {"params": others, "scale": 1.0},
        {"params": [words], "scale": recipe.words_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=peak_lr, betas=(0.9, 0.95), weight_decay=_WEIGHT_DECAY, fused=device == "cuda"
    )
    near = neighbours.to(device)
    mean: list[torch.Tensor] = []
    meant = 0
    hooks = _roughen(model, recipe.dropout, recipe.blur)
    begin, losses = time.monotonic(), []
    for step, picked in enumerate(_batches(rows, recipe.tokens, recipe.seed)):
        gone = recipe.gone(step, begin)
        if gone >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * group["scale"] * _schedule(gone)
        ids, answered = (part.to(device) for part in rows.batch(picked))
        loss = _loss(model, _swapped(ids.long(), answered, near), answered, recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if gone >= _MEAN_FROM:
            meant += 1
            _keep_mean(mean, list(model.parameters()), max(1 / meant, 1 - _MEAN))
        if step % 50 == 0:
            print(
                f"step {step} {time.monotonic() - begin:.0f} s loss {loss.item():.4f}", flush=True
            )
    for hook in hooks:
        hook.remove()
    for weight, kept in zip(model.parameters(), mean, strict=False):
        weight.data.copy_(kept)
    model.eval()
    return float(torch.stack(losses[-100:]).mean())


def _batches(rows: Rows, tokens: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of like length together, in an order that differs from epoch to epoch."""
    rng = np.random.default_rng(seed)
    lengths = np.diff(rows.bounds)
    while True:
        order = np.argsort(lengths + rng.uniform(0, 8, len(rows)), kind="stable")
        ends = [0]
        ahead = np.maximum.accumulate(lengths[order])
        while ends[-1] < len(order):
            start = ends[-1]
            wide = (
                -(-int(ahead[min(start + tokens // int(ahead[start]), len(order)) - 1]) // 16) * 16
            )
            ends.append(min(start + max(1, tokens // wide), len(order)))
        for at in rng.permutation(len(ends) - 1):
            yield order[ends[at] : ends[at + 1]]


def _roughen(
    model: LlamaForCausalLM, dropout: float, blur: float
) -> list[torch.utils.hooks.RemovableHandle]:
    """Drop-out behind every block and noise on the words' vectors while the model trains."""

    def drop(module: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        return F.dropout(out, dropout)

    def roughen(module: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        size = out.detach().pow(2).mean(-1, keepdim=True).sqrt()
        return F.dropout(out + blur * size * torch.randn_like(out), dropout)

    blocks = [b for layer in model.model.layers for b in (layer.mlp, layer.self_attn.o_proj)]
    hooks = [block.register_forward_hook(drop) for block in blocks]
    return [*hooks, model.model.embed_tokens.register_forward_hook(roughen)]


@torch.no_grad()
def _keep_mean(mean: list[torch.Tensor], weights: list[torch.nn.Parameter], share: float) -> None:
    """`share`: of the newest weights."""
    if not mean:
        mean.extend(weight.detach().clone() for weight in weights)
    torch._foreach_lerp_(mean, [weight.detach() for weight in weights], share)


def _swapped(ids: torch.Tensor, answered: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Some words of the prompts give way to like ones, a few to any. ids: [num_rows, width]"""
    words = torch.nonzero(near[:, 0] != torch.arange(len(near), device=ids.device))[:, 0]
    which = torch.randint(near.shape[1], ids.shape, device=ids.device)
    ids = torch.where(_chosen(_SWAPS, ids) & ~answered, near[ids, which], ids)
    stray = _chosen(_STRAYS, ids) & ~answered & torch.isin(ids, words)
    return torch.where(stray, words[torch.randint(len(words), ids.shape, device=ids.device)], ids)


def _chosen(chances: tuple[float, ...], ids: torch.Tensor) -> torch.Tensor:
    """[num_rows, width], bool: each row draws its chance"""
    drawn = torch.tensor(chances, device=ids.device)
    chance = drawn[torch.randint(len(chances), (len(ids), 1), device=ids.device)]
    return torch.rand(ids.shape, device=ids.device) < chance


def _schedule(gone: float) -> float:
    """Linear warm-up, then a cosine; `gone`: share of the time."""
    cosine = 0.5 * (1 + math.cos(math.pi * gone))
    return min(gone / _WARMUP, _FLOOR + (1 - _FLOOR) * cosine)


def _loss(
    model: LlamaForCausalLM, ids: torch.Tensor, answered: torch.Tensor, recipe: Recipe
) -> torch.Tensor:
    """Over the answers' tokens; padding lies behind them, so causal attention needs no mask."""
    with torch.autocast(recipe.device, dtype=torch.bfloat16, enabled=recipe.device == "cuda"):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[answered[:, 1:]])
    right = ids[:, 1:][answered[:, 1:]]
    return F.cross_entropy(logits.float(), right, label_smoothing=recipe.smoothing)
