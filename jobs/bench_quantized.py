"""Quantised weights on a GPU: how fast each scheme is, product by product and as a whole, and what
it costs in perplexity.

    python jobs/bench_quantized.py products             # each product of an 8B model, in us
    python jobs/bench_quantized.py speed                # batchgen bench, a process a scheme
    python jobs/bench_quantized.py perplexity --model M # a folder or a .gguf file; on a CPU too

Weights of `speed` are random, in the shape of Llama 3 8B; `--shape 70b` has that of Llama 3 70B.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from child_processes import parser_of
from gpu_bench import LLAMA_8B, LLAMA_70B, replay_us, say
from torch import nn

GROUP = 128
SHAPES = {"8b": LLAMA_8B, "70b": LLAMA_70B}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
W4 = {"quant_method": "gptq", "bits": 4, "group_size": GROUP}


class Command(NamedTuple):
    """A way to serve the shape: what config.json has beyond it, the flags, and the program."""

    more: dict[str, Any]
    flags: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "batchgen")


SCHEMES = {
    "bf16": Command({}),
    "fp8": Command({}, ("--quantization", "fp8")),
    "fp8-blocks": Command({"quantization_config": BLOCKS}),
    "w4": Command({"quantization_config": W4}),
}
PRODUCTS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
ROWS = (1, 16, 64, 128, 256, 512, 1024, 2048, 8192)


def main() -> int:
    args = parse_args()
    commands = {"products": products, "speed": speed, "perplexity": perplexities}
    commands[args.command](args)
    return 0


def speed(args: argparse.Namespace) -> None:
    chosen = {scheme: SCHEMES[scheme] for scheme in args.schemes}
    tell_speeds(args, SHAPES[args.shape] | ENDS, chosen)


def tell_speeds(args: argparse.Namespace, config: dict[str, Any], ways: dict[str, Command]) -> None:
    """Output tokens/s of each way and workload, the best run; ratios to the first way."""
    first: dict[str, float] = {}
    for way, command in ways.items():
        for row in bench(way, config, command, args):
            if row["engine"] == "batchgen":
                found = row["output_tokens_per_s"]
                ratio = found / first.setdefault(row["workload"], found)
                say(way=way, workload=row["workload"], output_tokens_per_s=found,
                    ratio=round(ratio, 3), floor_share=row.get("floor_share"),
                    peak_gib=row["peak_gib"], load_s=row["load_s"])  # fmt: skip


def bench(
    way: str, config: dict[str, Any], command: Command, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of `batchgen bench`, of random weights in the shape that the config has."""
    with tempfile.TemporaryDirectory() as name:
        folder, report = Path(name), Path(name) / "report.json"
        (folder / "config.json").write_text(json.dumps(config | command.more))
        workloads = [part for one in args.workloads for part in ("--workload", one)]
        words = [
            sys.executable, *command.program, "bench", "--model", name, "--device", "cuda",
            "--load-format", "dummy", "--static-batch", "0", "--repeats", str(args.repeats),
            "--json", str(report), *workloads, *command.flags, *args.flags,
        ]  # fmt: skip
        done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            say(way=way, failed=done.returncode)
            return
        found = json.loads(report.read_text())
    more = {
        "peak_gib": round(found["peak_memory_bytes"] / 2**30, 1),
        "load_s": found["load_s"],
    }
    for row in found["results"]:
        yield row | more


def products(args: argparse.Namespace) -> None:
    """Microseconds of each way, as a graph replays it, and the ratio to bfloat16."""
    for name, shape in PRODUCTS.items():
        weight = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(std=0.02)
        ways = ways_of(weight)
        for rows in args.rows or ROWS:
            x = torch.randn(rows, shape[1], dtype=torch.bfloat16, device="cuda")
            took = {way: measure(run, x) for way, run in ways.items()}
            plain = took["bf16"]
            say(product=name, rows=rows, **{way: round(us, 1) for way, us in took.items()},
                ratios={way: round(plain / us, 2) for way, us in took.items()})  # fmt: skip
        del ways, weight


Way = Callable[[torch.Tensor], torch.Tensor]


def ways_of(weight: torch.Tensor) -> dict[str, Way]:
    """The same layer in every scheme; rows come in bfloat16, so rounding them is in it."""
    from batchgen.engine.quantization.float8 import round_blocks, round_weight
    from batchgen.engine.quantization.float8_linear import Float8Linear
    from batchgen.engine.quantization.integer_linear import IntegerLinear
    from batchgen.engine.quantization.integers import round_to_integers

    dtype = weight.dtype
    scaled = Float8Linear(round_weight(weight), None, dtype)
    triton = Float8Linear(round_weight(weight), None, dtype)
    triton.product = "triton"
    blocks = Float8Linear(round_blocks(weight, (128, 128)), None, dtype)
    integers = IntegerLinear(round_to_integers(weight, GROUP), None, dtype)
    return {
        "bf16": lambda x: nn.functional.linear(x, weight),
        "fp8 scaled_mm": scaled.multiply,
        "fp8 triton": triton.multiply,
        "fp8 blocks": blocks.multiply,
        "w4": integers.multiply,
    }


@torch.inference_mode()
def measure(run: Way, x: torch.Tensor, repeats: int = 20) -> float:
    """Microseconds of one call, replayed as a graph after what the cache held was driven out."""
    flushed = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    return replay_us(lambda: run(x), repeats=repeats, before=flushed.zero_)


def perplexities(args: argparse.Namespace) -> None:
    """Of the text, in windows of `--window` tokens, and how often the likeliest token is that of
    the dense model."""
    from batchgen.job.model.files import resolve_model
    from batchgen.job.text.tokenizer import load_codec

    files = resolve_model(args.model)
    ids = load_codec(files).encode_batch([args.text.read_text(encoding="utf-8")])[0][: args.tokens]
    on_gpu = args.device.startswith("cuda")
    plain: torch.Tensor | None = None
    with tempfile.TemporaryDirectory() as folder:
        save_4_bit(files.path, Path(folder), args.group)
        ways: dict[str, tuple[Path, str | None]] = {
            "dense": (files.path, None),
            "fp8" if on_gpu else "int8": (files.path, "fp8" if on_gpu else "int8"),
            "w4": (Path(folder), None),
        }
        for name, (path, quantization) in ways.items():
            loss, likeliest, notes = judged(path, quantization, ids, args)
            plain = likeliest if plain is None else plain
            same = float((likeliest == plain).float().mean())
            loss = float(torch.tensor(loss).exp())
            say(scheme=name, tokens=len(ids), perplexity=round(loss, 3), same_token=round(same, 4),
                notes=notes)  # fmt: skip


def judged(
    path: Path, quantization: str | None, ids: list[int], args: argparse.Namespace
) -> tuple[float, torch.Tensor, list[str]]:
    """Mean loss of a token, the likeliest token after each, and what was said at load."""
    from batchgen.engine.config import EngineConfig
    from batchgen.engine.model.pieces import Piece, make_metadata
    from batchgen.engine.run.loader import load_model

    model = load_model(
        EngineConfig(model=path, device=args.device, dtype="bfloat16", quantization=quantization)
    )
    blocks, size = -(-args.window // 64), 64
    losses, likeliest = [], []
    for start in range(0, len(ids) - 1, args.window):
        window = torch.tensor(ids[start : start + args.window], device=model.device)
        if len(window) < 2:
            break
        model.allocate_cache(blocks, size)
        places = torch.arange(len(window), device=model.device)
        metadata = make_metadata([Piece(tuple(range(blocks)), 0, len(window))], size, model.device)
        logits = model.forward(window, places, metadata, places).float()[:-1]
        losses.append(nn.functional.cross_entropy(logits, window[1:], reduction="none").cpu())
        likeliest.append(logits.argmax(-1).cpu())
    model.release_cache()
    return float(torch.cat(losses).mean()), torch.cat(likeliest), model.notes


@torch.no_grad()
def save_4_bit(path: Path, folder: Path, group: int) -> None:
    """The model in compressed-tensors' packed format, rounded to the nearest."""
    from safetensors.torch import load_file, save_file

    from batchgen.engine.quantization.integers import round_to_integers
    from batchgen.engine.quantization.replacing import linear_names

    module = dense_module(path)
    names = linear_names(module)
    module.save_pretrained(folder, max_shard_size="100GB")
    state = load_file(folder / "model.safetensors")
    for name in names:
        rounded = round_to_integers(state.pop(f"{name}.weight"), group)
        state |= {
            f"{name}.weight_packed": words(rounded.codes),
            f"{name}.weight_scale": rounded.scales.T.contiguous(),
            f"{name}.weight_zero_point": words(rounded.zeros).T.contiguous(),
        }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "group_size": group}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    (folder / "config.json").write_text(json.dumps(config))


def dense_module(path: Path) -> Any:
    """The model as it is, in bfloat16 on the CPU."""
    if path.is_file():
        from batchgen.engine.checkpoint.gguf import load_gguf

        return load_gguf(path, torch.bfloat16)
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    return load(path, dtype=torch.bfloat16)


def words(codes: torch.Tensor) -> torch.Tensor:
    """int32 [rows, columns / 8]: eight columns in a word, the first in its lowest bits."""
    found = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
    for place in range(8):
        found |= codes[:, place::8].long() << (4 * place)
    return torch.where(found >= 2**31, found - 2**32, found).to(torch.int32)


def parse_args() -> argparse.Namespace:
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("products")
    one.add_argument("--rows", type=int, nargs="*")
    two = commands.add_parser("speed")
    two.add_argument("--shape", choices=SHAPES, default="8b")
    two.add_argument("--schemes", nargs="*", choices=SCHEMES, default=["bf16", "fp8", "w4"])
    two.add_argument("--workloads", nargs="*", default=["nano", "sharegpt"])
    two.add_argument("--repeats", type=int, default=3)
    two.add_argument("flags", nargs="*", help="more flags for batchgen bench, after --")
    three = commands.add_parser("perplexity")
    three.add_argument("--model", required=True)
    three.add_argument("--device", default="cuda")
    three.add_argument("--text", type=Path, default=Path(__file__).parent.parent / "LICENSE")
    three.add_argument("--tokens", type=int, default=8192)
    three.add_argument("--window", type=int, default=1024)
    three.add_argument("--group", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
