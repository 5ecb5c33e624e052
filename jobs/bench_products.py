"""Times of a decoder layer's four products by the number of rows, on one GPU, in bfloat16.

    python jobs/bench_products.py [8b|70b|0.6b]

Weights take turns, so that none is left in the L2 cache. A line a number of rows: microseconds of
each product, of all, TFLOP/s, and microseconds a row.
"""

from __future__ import annotations

import sys

import torch
from gpu_bench import LLAMA_8B, LLAMA_70B, QWEN_06B, product_sizes, replay_us, say

from batchgen.engine.cuda.buckets import sizes_up_to

SHAPES = {"8b": LLAMA_8B, "70b": LLAMA_70B, "0.6b": QWEN_06B}
_CACHE_BYTES = 100 << 20
"""Twice the L2 of an H200."""


def weights(shape: dict[str, int]) -> dict[str, list[torch.Tensor]]:
    """[outputs, inputs] of each product, in as many copies as fill the cache."""
    return {
        name: [
            torch.randn(size, dtype=torch.bfloat16, device="cuda") * 0.02
            for _ in range(1 + _CACHE_BYTES // (2 * size[0] * size[1]))
        ]
        for name, size in product_sizes(shape).items()
    }


def main() -> None:
    """Every size that steps are padded to, and those between."""
    products = weights(SHAPES[sys.argv[1] if len(sys.argv) > 1 else "8b"])
    for rows in sizes_up_to(8192):
        took = {}
        for name, copies in products.items():
            x = torch.randn(rows, copies[0].shape[1], dtype=torch.bfloat16, device="cuda")

            def multiply(x: torch.Tensor = x, copies: list[torch.Tensor] = copies) -> None:
                for weight in copies:
                    torch.mm(x, weight.T)

            took[name] = replay_us(multiply, 3, warm=2, repeats=5) / len(copies)
        total = sum(took.values())
        flops = 2 * rows * sum(copies[0].numel() for copies in products.values())
        say(
            rows=rows, us={name: round(us, 1) for name, us in took.items()}, all_us=round(total, 1),
            tflops=round(flops / total / 1e6), us_per_row=round(total / rows, 4),
        )  # fmt: skip


if __name__ == "__main__":
    main()
