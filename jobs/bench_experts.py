"""Layers of experts on a GPU: each kernel beside the time in which its weights can be read, and
whole models beside what transformers' own module takes.

    python jobs/bench_experts.py products          # each kernel of a layer, in us
    python jobs/bench_experts.py tiles --rows 256  # other cuts of the products, the fastest first
    python jobs/bench_experts.py speed             # batchgen bench, a process a way
    python jobs/bench_experts.py speed --shape gpt-oss-20b --ways bf16 mxfp4

Weights are random, in the shape of Qwen3-30B-A3B; `--shape gpt-oss-20b` has that of gpt-oss-20b.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from bench_quantized import Command, measure, tell_speeds
from gpu_bench import say

QWEN = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936,
    "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "hidden_act": "silu",
    "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "vocab_size": 201088,
    "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32,
    "num_experts_per_tok": 4, "sliding_window": 128, "max_position_embeddings": 131072,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "swiglu_limit": 7.0,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0,
                        "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                        "original_max_position_embeddings": 4096},
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SHAPES = {"30b-a3b": QWEN, "gpt-oss-20b": GPT_OSS}
OWN = (
    "-c",
    "import sys, batchgen.engine.run.optimizing as o; o.replace_experts = lambda module: 0\n"
    "from batchgen.__main__ import main; sys.exit(main(sys.argv[1:]))",
)
"""The command, with experts as transformers runs them."""
MXFP4 = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []}}
WAYS = {
    "own": Command({}, program=OWN),
    "bf16": Command({}),
    "fp8": Command({}, ("--quantization", "fp8")),
    "mxfp4": Command(MXFP4),
}
ROWS = (1, 16, 64, 256, 2048)


def main() -> int:
    args = parse_args()
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "products": products,
        "tiles": tiles,
        "speed": speed,
    }
    commands[args.command](args)
    return 0


def speed(args: argparse.Namespace) -> None:
    tell_speeds(args, SHAPES[args.shape], {way: WAYS[way] for way in args.ways})


@dataclass
class Layer:
    """A layer of experts of the shape, and rows that go through it."""

    module: Any
    ours: Any
    rounded: Any
    packed: Any
    routers: tuple[Any, Any]
    """The model's own, and ours."""
    x: torch.Tensor
    chosen: torch.Tensor
    shares: torch.Tensor
    active: int

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Of gates and ups, and of what follows, of the experts that are chosen."""
        both = (self.module.gate_up_proj, self.module.down_proj)
        return tuple(one[0].nbytes * self.active for one in both)  # type: ignore[return-value]


def layers(args: argparse.Namespace) -> Iterator[Layer]:
    from transformers import AutoConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssTopKRouter
    from transformers.models.qwen3_moe.modeling_qwen3_moe import (
        Qwen3MoeExperts,
        Qwen3MoeTopKRouter,
    )

    from batchgen.engine.mixture.form import find_gate, sizes_of
    from batchgen.engine.mixture.layer import Experts
    from batchgen.engine.mixture.packed import random_packed
    from batchgen.engine.mixture.rounded import biases_of, round_experts_of
    from batchgen.engine.mixture.router_proof import find_router

    shape = SHAPES[args.shape]
    fields = {name: value for name, value in shape.items() if name != "model_type"}
    config = AutoConfig.for_model(shape["model_type"], **fields)
    config._experts_implementation = "grouped_mm"
    qwen: tuple[Any, Any] = (Qwen3MoeExperts, Qwen3MoeTopKRouter)
    make, choose = qwen if args.shape == "30b-a3b" else (GptOssExperts, GptOssTopKRouter)
    with torch.device("cuda"):
        module = make(config).to(torch.bfloat16).requires_grad_(False).eval()
        router = choose(config).to(torch.bfloat16).requires_grad_(False).eval()
    for parameter in (*module.parameters(), *router.parameters()):
        parameter.normal_(std=0.02)
    sizes, gate = sizes_of(module), find_gate(module)
    chooser = find_router(router, torch.bfloat16)
    assert sizes is not None
    assert gate is not None
    assert chooser is not None
    ours = Experts(module, sizes, gate)
    rounded = round_experts_of(module, sizes, gate, lambda weight: weight)
    biases = biases_of(module, gate)
    packed = random_packed(sizes, gate, biases, torch.bfloat16, torch.device("cuda"))
    for rows in args.rows or ROWS:
        x = torch.randn(rows, config.hidden_size, dtype=torch.bfloat16, device="cuda")
        scores = torch.randn(rows, sizes.num_experts, device="cuda").softmax(1)
        shares, chosen = scores.topk(config.num_experts_per_tok)
        active = int(chosen.unique().numel())
        routers = (router, chooser)
        yield Layer(module, ours, rounded, packed, routers, x, chosen, shares.to(x.dtype), active)


def products(args: argparse.Namespace) -> None:
    """Microseconds of each kernel, as a graph replays it, and the time to read its weights."""
    from batchgen.report.ceilings import measure_ceilings

    speed = measure_ceilings(torch.device("cuda"), torch.bfloat16)
    say(gb_per_s=round(speed.bytes_per_s / 1e9), tflops=round(speed.flops_per_s / 1e12))
    for layer in layers(args):
        kernels = kernels_of(layer)
        took = {name: measure(run, layer.x) for name, run in kernels.items()}
        own = kernels["own"](layer.x).float()
        apart = {k: float((kernels[k](layer.x) - own).norm() / own.norm()) for k in ("all", "fp8")}
        floors = [size / speed.bytes_per_s * 1e6 for size in layer.weight_bytes]
        say(rows=len(layer.x), active=layer.active, us={k: round(us, 1) for k, us in took.items()},
            floors=[round(floor, 1) for floor in floors],
            floor_share=round(sum(floors) / took["all"], 3),
            apart={name: round(error, 4) for name, error in apart.items()})  # fmt: skip


def kernels_of(layer: Layer) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Each part of a layer, the whole, and the whole as transformers runs it."""
    from batchgen.engine.mixture.products import combine
    from batchgen.engine.mixture.sorting import sort_pairs
    from batchgen.engine.mixture.tiles import row_block

    chosen, shares, ours = layer.chosen, layer.shares, layer.ours
    rows = row_block(chosen.numel(), ours.num_experts, layer.x.dtype)
    parts = torch.randn(chosen.numel(), layer.x.shape[1], device="cuda").to(layer.x)
    gate_up, down = halves(layer)
    return {
        "own_router": lambda x: layer.routers[0](x),
        "router": lambda x: layer.routers[1](x),
        "sort": lambda x: sort_pairs(chosen, ours.num_experts, rows),
        "gate_up": lambda x: gate_up(None),
        "down": lambda x: down(None),
        "sum": lambda x: combine(parts, chosen, ours.num_experts),
        "all": lambda x: ours(x, chosen, shares),
        "fp8": lambda x: layer.rounded(x, chosen, shares),
        "mxfp4": lambda x: layer.packed(x, chosen, shares),
        "own": lambda x: layer.module(x, chosen, shares),
    }


Half = Callable[[Any], torch.Tensor]


def halves(layer: Layer) -> tuple[Half, Half]:
    """The two products; called with a tile, or with None for what is taken."""
    from batchgen.engine.mixture.products import Weight, multiply_down, multiply_gate_up
    from batchgen.engine.mixture.sorting import sort_pairs
    from batchgen.engine.mixture.tiles import down_tile, gate_up_tile, row_block

    ours, chosen = layer.ours, layer.chosen
    rows = row_block(chosen.numel(), ours.num_experts, layer.x.dtype)
    taken = gate_up_tile(rows, layer.x.dtype), down_tile(rows, layer.x.dtype)
    kept = {size: sort_pairs(chosen, ours.num_experts, size) for size in (16, 32, 64, 128)}
    first = Weight(ours.gate_up_proj, ours.gate_up_proj_bias)
    second = Weight(ours.down_proj, ours.down_proj_bias)

    def gate_up(tile: Any) -> torch.Tensor:
        tile = tile or taken[0]
        return multiply_gate_up(layer.x, first, ours.gate, kept[tile.rows], chosen.shape[1], tile)

    inner = gate_up(None)

    def down(tile: Any) -> torch.Tensor:
        tile = tile or taken[1]
        return multiply_down(inner, second, layer.shares, kept[tile.rows], tile)

    return gate_up, down


def tiles(args: argparse.Namespace) -> None:
    """Microseconds of other cuts, the fastest first."""
    for layer in layers(args):
        for name, run, weights in zip(("gate_up", "down"), halves(layer), (2, 1), strict=True):
            found = {cut: time_of(run, cut, layer.x) for cut in cuts(layer, weights)}
            best = sorted(found, key=lambda cut: found[cut])[:6]
            for cut in best:
                say(product=name, rows=len(layer.x), us=round(found[cut], 1), tile=str(cut))
            say(product=name, rows=len(layer.x), us=round(time_of(run, None, layer.x), 1))


def time_of(run: Half, tile: Any, x: torch.Tensor) -> float:
    return measure(lambda _: run(tile), x, repeats=9)


def cuts(layer: Layer, weights: int) -> list[Any]:
    from batchgen.engine.mixture.tiles import Tile, row_block

    taken = row_block(layer.chosen.numel(), layer.ours.num_experts, layer.x.dtype)
    every = product([taken], (32, 64, 128, 256), (64, 128), (4, 8), (3, 4, 5, 6))
    return [cut for cut in (Tile(*one) for one in every) if is_sensible(cut, weights)]


def is_sensible(tile: Any, weights: int) -> bool:
    """Whether a core has room for it: shared memory, and registers for its sums."""
    rows = weights * tile.outputs
    step = (rows + tile.rows) * tile.inputs * 2
    sums = rows * tile.rows // (32 * tile.num_warps)
    return step * tile.num_stages <= 220 << 10 and sums <= 128 and 64 <= rows <= 256


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("products", "tiles"):
        one = commands.add_parser(name)
        one.add_argument("--rows", type=int, nargs="*")
        one.add_argument("--shape", choices=SHAPES, default="30b-a3b")
    two = commands.add_parser("speed")
    two.add_argument("--shape", choices=SHAPES, default="30b-a3b")
    two.add_argument("--ways", nargs="*", choices=WAYS, default=["own", "bf16"])
    two.add_argument("--workloads", nargs="*", default=["nano", "sharegpt"])
    two.add_argument("--repeats", type=int, default=3)
    two.add_argument("flags", nargs="*", help="more flags for batchgen bench, after --")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
