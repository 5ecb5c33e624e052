"""The GPU sampler's kernels choose the tokens that the definition in `draws` gives."""

from __future__ import annotations

import pytest
import torch
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.draws import draw_key, uniform

pytest.importorskip("triton", reason="triton is not installed: no CUDA sampler to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
SIZES = [(1, 50), (3, 4096), (5, 5000), (4, 20_001)]
if not INTERPRETED:
    SIZES += [(40, 20_001), (256, 151_936), (2, 262_144)]


def random_logits(rows: int, vocab: int, dtype: torch.dtype) -> torch.Tensor:
    draw = torch.Generator().manual_seed(rows * vocab)
    return (torch.randn(rows, vocab, generator=draw) * 2).to(DEVICE, dtype)


@direct
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("rows", "vocab"), SIZES)
def test_greedy_takes_the_first_of_the_largest(rows: int, vocab: int, dtype: torch.dtype) -> None:
    from batchgen.engine.sampling.triton.choose_kernel import greedy_tokens

    logits = random_logits(rows, vocab, dtype)  # bfloat16 has many ties
    tokens, usable = greedy_tokens(logits)
    first = (logits == logits.max(-1, keepdim=True).values).int().argmax(-1)
    assert usable.all()
    assert torch.equal(tokens, first)


@direct
def test_rows_without_a_choice_are_marked() -> None:
    from batchgen.engine.sampling.triton.choose_kernel import greedy_tokens

    logits = random_logits(5, 9000, torch.float32)
    logits[1, 8999] = float("nan")
    logits[2] = float("-inf")
    logits[3, 17] = float("inf")
    logits[4, :8000] = float("-inf")
    _, usable = greedy_tokens(logits)
    assert usable.tolist() == [True, False, False, False, True]


@direct
@pytest.mark.parametrize(("rows", "vocab"), SIZES)
def test_draws_invert_the_cumulative_probability(rows: int, vocab: int) -> None:
    from batchgen.engine.sampling.triton.choose_kernel import sampled_tokens

    logits = random_logits(rows, vocab, torch.float32)
    keys = [draw_key(5, str(row), 0) for row in range(rows)]
    signed = [key - (1 << 64) if key >> 63 else key for key in keys]
    positions = [row * 7 for row in range(rows)]
    temperature = torch.tensor([0.3 + 0.1 * (row % 9) for row in range(rows)])
    temperature[0] = 0.0
    tokens, usable = sampled_tokens(
        logits,
        temperature.to(DEVICE),
        torch.tensor(signed, device=DEVICE),
        torch.tensor(positions, device=DEVICE),
    )
    assert usable.all()
    assert int(tokens[0]) == int(logits[0].argmax())
    scores = logits.double() / temperature.to(DEVICE).clamp_min(0.1)[:, None].double()
    cdf = torch.softmax(scores, -1).cumsum(-1)
    for row in range(1, rows):
        token, draw = int(tokens[row]), uniform(keys[row], positions[row])
        low = float(cdf[row, token - 1]) if token else 0.0
        assert low - 1e-6 <= draw <= float(cdf[row, token]) + 1e-6
        assert float(cdf[row, token]) > low


@direct
def test_a_draw_is_the_same_number_to_the_last_bit() -> None:
    from batchgen.engine.sampling.triton.choose_kernel import sampled_tokens

    rows, vocab = (
        16 if INTERPRETED else 64,
        1000,
    )  # equal logits: the token is the draw's thousandth
    keys = [draw_key(1, f"row {row}", row) for row in range(rows)]
    signed = [key - (1 << 64) if key >> 63 else key for key in keys]
    tokens, _ = sampled_tokens(
        torch.zeros(rows, vocab, device=DEVICE),
        torch.ones(rows, device=DEVICE),
        torch.tensor(signed, device=DEVICE),
        torch.arange(rows, device=DEVICE),
    )
    assert tokens.tolist() == [int(uniform(key, i) * vocab) for i, key in enumerate(keys)]
