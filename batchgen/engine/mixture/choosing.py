"""Experts chosen for each token from its router's logits on CUDA, in one Triton kernel.

Equal ones are taken from the first on, and NaN before all numbers, as torch.topk does on CUDA. To
the compiler it is one operator.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from batchgen.engine.kernel_keys import settle_keys
from batchgen.engine.mixture.choice import LOGITS, SIGMOID, SOFTMAX, Choice

__all__ = ["choose_experts"]

_SOFTMAX, _SIGMOID, _LOGITS = (tl.constexpr(one) for one in (SOFTMAX, SIGMOID, LOGITS))
_LEAST, _MOST = tl.constexpr(-(2**31)), tl.constexpr(2**31 - 1)
_LANES = 32
"""Of a warp, which is a program: it compares a row of so many or more in one instruction, and
nothing goes through shared memory."""


@triton.jit(do_not_specialize=["num_tokens"])  # type: ignore[untyped-decorator]
def _choose_kernel(
    logits: tl.tensor,  # [num_tokens, NUM_EXPERTS]
    correction: tl.tensor,  # [NUM_EXPERTS]
    shares: tl.tensor,  # [num_tokens, NUM_CHOSEN]
    chosen: tl.tensor,  # int64 [num_tokens, NUM_CHOSEN]
    num_tokens: tl.tensor,
    epsilon: tl.tensor,
    factor: tl.tensor,
    FUNCTION: tl.constexpr,
    CORRECTED: tl.constexpr,
    NORMALIZED: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    KEPT_GROUPS: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,  # a power of 2
) -> None:
    """Some tokens a program. An expert stays where its logit is; it learns at which place it was
    chosen, and stores itself there."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    experts = tl.arange(0, EXPERTS)[None, :]
    are_there = experts < NUM_EXPERTS
    inside = (rows < num_tokens) & are_there
    logit = tl.load(logits + rows * NUM_EXPERTS + experts, inside, other=float("-inf"))
    logit = logit.to(tl.float32)
    if FUNCTION == _SOFTMAX:
        share = tl.exp(logit - tl.max(logit, 1, keep_dims=True))
        share = share / tl.sum(share, 1, keep_dims=True)
    elif FUNCTION == _SIGMOID:
        share = 1.0 / (1.0 + tl.exp(-logit))
    else:
        share = logit
    worth = share
    if CORRECTED:
        worth += tl.load(correction + experts, are_there, other=0.0).to(tl.float32)
    if NUM_GROUPS > 1:
        left = _left(worth, experts, FUNCTION, NUM_GROUPS, KEPT_GROUPS, NUM_EXPERTS)
        if FUNCTION == _SIGMOID:
            worth = tl.where(left, worth, float("-inf"))
        else:
            worth, share = tl.where(left, worth, 0.0), tl.where(left, share, 0.0)
    key = tl.where(are_there, _key(worth), _LEAST)
    place = tl.full([ROWS, EXPERTS], NUM_CHOSEN, tl.int32)
    for number in tl.static_range(NUM_CHOSEN):
        is_next = experts == _first_best(key, experts)
        place = tl.where(is_next, number, place)
        key = tl.where(is_next, _LEAST, key)
    are_chosen = place < NUM_CHOSEN
    if FUNCTION == _LOGITS:
        largest = tl.max(tl.where(are_chosen, share, float("-inf")), 1, keep_dims=True)
        share = tl.exp(share - largest)
    if NORMALIZED:
        share = share / (tl.sum(tl.where(are_chosen, share, 0.0), 1, keep_dims=True) + epsilon)
    at = rows * NUM_CHOSEN + place
    taken = are_chosen & inside
    tl.store(shares + at, (share * factor).to(shares.dtype.element_ty), taken)
    tl.store(chosen + at, tl.broadcast_to(experts, [ROWS, EXPERTS]).to(tl.int64), taken)


@triton.jit  # type: ignore[untyped-decorator]
def _key(worth: tl.tensor) -> tl.tensor:
    """int32 in the order of the numbers: warps compare integers in one instruction."""
    bits = worth.to(tl.int32, bitcast=True)
    return tl.where(worth == worth, bits ^ ((bits >> 31) & _MOST), _MOST)


@triton.jit  # type: ignore[untyped-decorator]
def _first_best(key: tl.tensor, numbers: tl.tensor) -> tl.tensor:
    """The least of the numbers [1, size] that have the largest key of a row."""
    best = tl.max(key, 1, keep_dims=True)
    return tl.min(tl.where(key == best, numbers, _MOST), 1, keep_dims=True)


@triton.jit  # type: ignore[untyped-decorator]
def _left(
    worth: tl.tensor,
    experts: tl.tensor,
    FUNCTION: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    KEPT_GROUPS: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
) -> tl.tensor:
    """Whether an expert's group is one of the best: by its best expert, or with a sigmoid by the
    sum of its two best."""
    groups = experts // (NUM_EXPERTS // NUM_GROUPS)
    key = _key(worth)
    of_group = tl.full(worth.shape, _LEAST, tl.int32)
    for group in tl.static_range(NUM_GROUPS):
        own = tl.where(groups == group, key, _LEAST)
        first = _first_best(own, experts)
        best = tl.max(own, 1, keep_dims=True)
        if FUNCTION == _SIGMOID:
            second = tl.max(tl.where(experts == first, _LEAST, own), 1, keep_dims=True)
            best = _key(_number(best) + _number(second))
        of_group = tl.where(groups == group, best, of_group)
    left = groups < 0
    for _ in tl.static_range(KEPT_GROUPS):
        is_next = groups == _first_best(of_group, groups)
        left = left | is_next
        of_group = tl.where(is_next, _LEAST, of_group)
    return left


@triton.jit  # type: ignore[untyped-decorator]
def _number(key: tl.tensor) -> tl.tensor:
    """What has the key."""
    return (key ^ ((key >> 31) & _MOST)).to(tl.float32, bitcast=True)


@torch.library.custom_op("batchgen::choose_experts", mutates_args=())
def choose_experts(
    logits: torch.Tensor,  # [num_tokens, num_experts]
    correction: torch.Tensor | None,  # [num_experts]
    choice: str,  # see `Choice.text`
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token, its experts' shares and its experts (int64) [num_tokens, num_chosen]."""
    how = Choice.read(choice)
    logits = logits.contiguous()
    shares, chosen = _empty(logits, how)
    tokens, experts = logits.shape
    padded = triton.next_power_of_2(experts)
    rows = max(1, _LANES // padded)
    if tokens:
        _choose_kernel[(triton.cdiv(tokens, rows),)](
            logits, correction, shares, chosen, tokens, how.epsilon, how.factor, how.function,
            correction is not None, how.normalized or how.function == LOGITS, how.num_groups,
            how.kept_groups, experts, how.num_chosen, rows, padded, num_warps=1,
        )  # fmt: skip
    return shares, chosen


@choose_experts.register_fake
def _(
    logits: torch.Tensor, correction: torch.Tensor | None, choice: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty(logits, Choice.read(choice))


def _empty(logits: torch.Tensor, choice: Choice) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (logits.shape[0], choice.num_chosen)
    return (
        logits.new_empty(shape, dtype=choice.dtype),
        logits.new_empty(shape, dtype=torch.int64),
    )


settle_keys(_choose_kernel)
