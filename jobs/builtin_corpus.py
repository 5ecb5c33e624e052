"""The built-in model's corpus: the teacher's answers, filtered, and the facts; as JSON lines."""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from builtin_examples import EXAMPLES
from builtin_prompts import SYSTEM, TeacherPrompt, teacher_prompts

__all__ = ["read_corpus", "write_corpus"]

_SHARD_BYTES = 14 << 20
_ROUND = 8
"""Batches drawn at a time, so that answers of like length share a batch."""
_BAD = re.compile(r"[\[\]{}<>*#_|`]|AI language|language model|Question|Answer|http|\bhint\b")


def write_corpus(teacher: Any, codec: Any, folder: Path, seconds: float, seed: int) -> int:
    """Ask the teacher for `seconds`; kept dialogues go to corpus-N.jsonl.gz. Returns how many."""
    rng, deadline = random.Random(seed), time.monotonic() + seconds
    kept: list[dict[str, Any]] = []
    asked, prompts = 0, teacher_prompts(rng)
    while time.monotonic() < deadline:
        batch = sorted(islice(prompts, teacher.batch * _ROUND), key=lambda p: p.max_tokens)
        for at in range(0, len(batch), teacher.batch):
            if time.monotonic() >= deadline:
                break
            part = batch[at : at + teacher.batch]
            kept += _answered(teacher, codec, part, rng)
            asked += len(part)
    print(f"teacher: {asked} asked, {len(kept)} kept", flush=True)
    _write_shards(kept, folder)
    return len(kept)


def read_corpus(folder: Path) -> Iterator[dict[str, Any]]:
    """The fluent dialogues of every shard, in order; the teacher's stories wander and stay out."""
    for path in sorted(folder.glob("corpus-*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for one in map(json.loads, lines):
                if "story about" not in one["user"] and _fluent(one["answer"]):
                    yield one


def _fluent(text: str) -> bool:
    """No three words in a row come twice, no word thrice in a row of five."""
    words = re.findall(r"[a-z']+", text.lower())
    trios = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trios)) == len(trios) and all(
        len(set(words[at : at + 5])) > 3 for at in range(len(words) - 4)
    )


def _answered(
    teacher: Any, codec: Any, prompts: list[TeacherPrompt], rng: random.Random
) -> Iterator[dict[str, Any]]:
    chats = [_chat(prompt, rng) for prompt in prompts]
    ids = [codec.render(chat) for chat in chats]
    fitting = [i for i, one in enumerate(ids) if len(one) <= teacher.prompt_len]
    longest = max(prompts[i].max_tokens for i in fitting)
    answers = teacher.answer([ids[i] for i in fitting], longest)
    ended = [(i, one) for i, one in zip(fitting, answers, strict=True) if one]
    texts = codec.decode_batch([one for _, one in ended])
    for (i, _), text in zip(ended, texts, strict=True):
        text = text.strip()
        if _good(text, chats[i]):
            prompt = prompts[i]
            yield {"user": prompt.shown, "answer": text, "as_text": prompt.as_text}


def _chat(prompt: TeacherPrompt, rng: random.Random) -> list[dict[str, str]]:
    """The question after one worked story, or two short examples, of its kind."""
    examples = EXAMPLES[prompt.kind]
    shown = rng.sample(examples, 1 if prompt.kind == "story" else 2)
    chat = [{"role": "system", "content": SYSTEM}]
    for user, answer in shown:
        chat += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return [*chat, {"role": "user", "content": prompt.shown}]


def _good(text: str, chat: list[dict[str, str]]) -> bool:
    """Plain, complete, not an example again, and no sentence twice."""
    if len(text) < 12 or not text.isascii() or _BAD.search(text):
        return False
    if text[-1] not in '.!?"' and "\n" not in text:
        return False
    sentences = [part.strip() for part in re.split(r"[.!?\n]+", text) if len(part.split()) > 3]
    shown = " ".join(message["content"] for message in chat[:-1])
    return len(set(sentences)) == len(sentences) and not any(one in shown for one in sentences)


def _write_shards(dialogues: Iterable[dict[str, Any]], folder: Path) -> None:
    """Gzip shards that stay under `_SHARD_BYTES`, at about 3 characters a compressed byte."""
    lines = [json.dumps(one) + "\n" for one in dialogues]
    per_shard = max(1, int(_SHARD_BYTES * 2.5 / max(1, sum(map(len, lines)) / max(1, len(lines)))))
    for number, at in enumerate(range(0, len(lines), per_shard)):
        path = folder / f"corpus-{number}.jsonl.gz"
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as file:
            file.writelines(lines[at : at + per_shard])
