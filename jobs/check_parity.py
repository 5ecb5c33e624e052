"""Does the engine say what `transformers.generate` says, row by row? Greedy, fp32, real weights.

    python jobs/check_parity.py MODEL [--rows 100] [--max-tokens 64] [--device cpu]

Every row runs alone through `generate` (eager attention) and packed with all others through the
engine. A row may part from `generate` only where its two best logits lie within 1e-4 of each other;
each such place is printed. Exit code 1 if a row parts anywhere else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from batchgen.engine.checkpoint.gguf import load_gguf
from batchgen.engine.config import EngineConfig
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import load_engine

NEAR_TIE = 1e-4
SAMPLES = Path(__file__).parent.parent / "sample_data"
PROMPTS = [SAMPLES / "general.jsonl", SAMPLES / "questions.jsonl"]


@dataclass(frozen=True)
class Parting:
    """Where a row leaves the oracle, and how far its token lies below the oracle's best there."""

    row: int
    position: int
    gap: float


def main() -> int:
    args = parse_args()
    path: Path = args.model
    tokenizer = load_tokenizer(path)
    prompts = read_prompts(tokenizer, args.prompts, args.rows)
    oracle = load_oracle(path).to(args.device)
    eos = eos_token_ids(oracle)
    started = time.perf_counter()
    expected = []
    for row, prompt in enumerate(prompts):
        expected.append(generate(oracle, prompt, args.max_tokens, eos))
        print(f"generate: {row + 1} of {len(prompts)} rows", end="\r", file=sys.stderr)
    oracle_s = time.perf_counter() - started
    config = EngineConfig(
        model=path,
        device=args.device,
        dtype="float32",
        eos_token_ids=eos,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        num_blocks=args.num_blocks,
        attention_backend=args.attention_backend,
    )
    started = time.perf_counter()
    actual, preemptions = run_engine(config, prompts, args.max_tokens)
    engine_s = time.perf_counter() - started
    partings = [
        Parting(row, place, gap(oracle, [*prompts[row], *actual[row][: place + 1]]))
        for row, place in first_differences(expected, actual)
    ]
    num_tokens = sum(map(len, expected))
    equal = len(prompts) - len(partings)
    print(f"{'model':<28}{path.name}")
    print(f"{'rows, tokens':<28}{len(prompts)}, {num_tokens}")
    print(f"{'rows equal to generate':<28}{equal}")
    print(f"{'rows parting at a near tie':<28}{sum(p.gap <= NEAR_TIE for p in partings)}")
    print(f"{'rows parting elsewhere':<28}{sum(p.gap > NEAR_TIE for p in partings)}")
    print(f"{'preemptions':<28}{preemptions}")
    print(f"{'generate, engine (seconds)':<28}{oracle_s:.1f}, {engine_s:.1f} (with its load)")
    for parting in partings:
        print(f"row {parting.row} parts at token {parting.position}, gap {parting.gap:.2e}")
    return int(any(parting.gap > NEAR_TIE for parting in partings))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a folder or a .gguf file")
    parser.add_argument("--prompts", type=Path, nargs="+", default=PROMPTS, help="JSONL files")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--num-blocks", type=int)
    return parser.parse_args()


def load_tokenizer(path: Path) -> Any:
    if path.is_file():
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return AutoTokenizer.from_pretrained(path)


def load_oracle(path: Path) -> Any:
    """The model as transformers runs it, with eager attention, in fp32."""
    if path.is_file():
        return load_gguf(path, torch.float32).eval()
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def read_prompts(tokenizer: Any, paths: list[Path], num_rows: int) -> list[list[int]]:
    """Each prompt as a chat turn where the model has a template, then each as plain text."""
    lines = [line for path in paths for line in path.read_text().splitlines() if line.strip()]
    texts = [json.loads(line)["prompt"] for line in lines]
    rows: list[list[int]] = []
    if tokenizer.chat_template:
        for text in texts:
            chat = [{"role": "user", "content": text}]
            turn = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            rows.append(tokenizer(turn, add_special_tokens=False)["input_ids"])
    rows += [tokenizer(text)["input_ids"] for text in texts]
    if len(rows) < num_rows:
        raise SystemExit(f"the prompts give {len(rows)} rows, --rows asks for {num_rows}")
    return rows[:num_rows]


def eos_token_ids(oracle: Any) -> tuple[int, ...]:
    eos = oracle.generation_config.eos_token_id
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)


@torch.inference_mode()
def generate(oracle: Any, prompt: list[int], max_tokens: int, eos: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt], device=oracle.device)
    output = oracle.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=list(eos) or None,
        pad_token_id=eos[0] if eos else 0,
    )
    return output[0, len(prompt) :].tolist()


def run_engine(
    config: EngineConfig, prompts: list[list[int]], max_tokens: int
) -> tuple[list[list[int]], int]:
    """All rows at once; their tokens in order, and how often a row was preempted."""
    engine = load_engine(config)
    for row, prompt in enumerate(prompts):
        engine.add(Request(row, prompt, SamplingParams(max_tokens=max_tokens)))
    tokens: dict[int, list[int]] = {}
    while engine.num_unfinished:
        for done in engine.step():
            tokens[done.request_id] = done.token_ids
    return [tokens[row] for row in range(len(prompts))], engine.stats().preemptions


def first_differences(
    expected: Sequence[list[int]], actual: Sequence[list[int]]
) -> list[tuple[int, int]]:
    """(row, place of its first different token) of every row that differs."""
    found = []
    for row, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        if ours != theirs:
            equal = [a == b for a, b in zip(ours, theirs, strict=False)]
            found.append((row, equal.index(False) if False in equal else len(equal)))
    return found


@torch.inference_mode()
def gap(oracle: Any, tokens: list[int]) -> float:
    """How far the last token lies below the best one, in the oracle's logits at its place."""
    ids = torch.tensor([tokens[:-1]], device=oracle.device)
    logits = oracle(ids, use_cache=False).logits[0, -1]
    return float(logits.max() - logits[tokens[-1]])


if __name__ == "__main__":
    sys.exit(main())
