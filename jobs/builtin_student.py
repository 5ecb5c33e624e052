"""The built-in model itself: its tokenizer, its shape, its training and its export."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from builtin_facts import fact_dialogue
from builtin_stories import story_request
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["CONTEXT", "encode_documents", "export", "make_model", "train", "train_tokenizer"]

CONTEXT = 1024
BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role: ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""
_SYSTEMS = ["You are a helpful assistant.", "Be kind and helpful.", "Answer in simple words."]
_WARMUP, _WEIGHT_DECAY = 0.02, 0.05
_SHOWN_TOO = 0.1
_STORIES, _FACTS, _STORY_AS_TEXT = 0.5, 1.2, 0.35
"""Stories and facts for each dialogue of the teacher, and how many stories come without a chat."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE, digits one by one, a BOS before plain text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, END, PAD, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def documents(corpus: list[dict[str, Any]], rng: random.Random) -> Iterator[str]:
    """Training texts: the teacher's chats, some of its answers as plain text, stories, facts."""
    for at, one in enumerate(corpus):
        if rng.random() < one["as_text"]:
            yield BOS + one["answer"] + END
            continue
        turns = [(one["user"], one["answer"])]
        if rng.random() < _SHOWN_TOO:
            other = corpus[rng.randrange(at + 1)]
            turns.insert(0, (other["user"], other["answer"]))
        yield _chat(turns, rng)
    for _ in range(int(_STORIES * len(corpus))):
        asked, story = story_request(rng)
        plain = rng.random() < _STORY_AS_TEXT
        yield BOS + story + END if plain else _chat([(asked, story)], rng)
    for _ in range(int(_FACTS * len(corpus))):
        yield _chat(fact_dialogue(rng), rng)


def _chat(turns: list[tuple[str, str]], rng: random.Random) -> str:
    system = f"<|system|>{rng.choice(_SYSTEMS)}{END}" if rng.random() < 0.15 else ""
    text = "".join(f"<|user|>{user}{END}<|assistant|>{answer}{END}" for user, answer in turns)
    return BOS + system + text


def encode_documents(
    tokenizer: Tokenizer, corpus: list[dict[str, Any]], seed: int, length: int
) -> torch.Tensor:
    """Rows of ids [num_rows, length + 1]; each begins where a document begins."""
    rng = random.Random(seed)
    texts = list(documents(corpus, rng))
    rng.shuffle(texts)
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    rows: list[np.ndarray] = []
    row: list[int] = []
    for one in encoded:
        row += one.ids
        if len(row) > length:
            rows.append(np.array(row[: length + 1], dtype=np.int16))
            row = []
    if not rows:
        raise SystemExit(f"The corpus is too small: {len(texts)} documents fill no row.")
    return torch.from_numpy(np.stack(rows))


def make_model(vocab_size: int, tokenizer: Tokenizer, tiny: bool) -> LlamaForCausalLM:
    """4.6 million weights: 6 layers of width 256, 4 heads of 64 over 2 KV heads."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256 if not tiny else 64,
        intermediate_size=512 if not tiny else 64,
        num_hidden_layers=6 if not tiny else 1,
        num_attention_heads=4 if not tiny else 1,
        num_key_value_heads=2 if not tiny else 1,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    rows: torch.Tensor,
    device: str,
    seconds: float,
    batch: int,
    peak_lr: float,
) -> float:
    """AdamW for `seconds`, learning rate by the time gone; returns the held-out loss (nats)."""
    model.to(device).train()
    rows = rows.to(device)
    held, rows = rows[: max(1, len(rows) // 100)][:64], rows[max(1, len(rows) // 100) :]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak_lr, betas=(0.9, 0.95), weight_decay=_WEIGHT_DECAY
    )
    begin, step, order = time.monotonic(), 0, torch.empty(0, dtype=torch.long)
    while (gone := (time.monotonic() - begin) / seconds) < 1:
        if len(order) < batch:
            order = torch.cat((order, torch.randperm(len(rows))))
        picked, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * _schedule(gone)
        loss = _loss(model, rows[picked.to(device)], device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            epoch = step * batch / len(rows)
            print(f"step {step} epoch {epoch:.2f} loss {loss.item():.3f}", flush=True)
    model.eval()
    with torch.no_grad():
        return float(_loss(model, held, device).item())


def _schedule(gone: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth; `gone`: share of the time."""
    return min(gone / _WARMUP, 0.02 + 0.49 * (1 + math.cos(math.pi * gone)))


def _loss(model: LlamaForCausalLM, rows: torch.Tensor, device: str) -> torch.Tensor:
    ids = rows.long()
    with torch.autocast(device, dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """A transformers folder: bf16 safetensors, tokenizer, chat template, greedy defaults."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, pad_token=PAD
    )
    wrapped.model_max_length = CONTEXT
    wrapped.chat_template = CHAT_TEMPLATE
    model.generation_config = GenerationConfig(
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    wrapped.save_pretrained(folder)
