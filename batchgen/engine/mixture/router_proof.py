"""What a router does, told by its answers, and the proof of the one that stands for it.

In place of its weights it gets numbers that make the logits ours: many of them equal, some far too
small for an exponential, some NaN.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch.func import functional_call

from batchgen.causes import first_line
from batchgen.counts import counted
from batchgen.engine.failures import is_out_of_memory
from batchgen.engine.mixture.choice import LOGITS, SIGMOID, SOFTMAX, Choice
from batchgen.engine.mixture.router import Router, correction_of, multiply

__all__ = ["LARGEST", "ROUTED", "SHARE_ERRORS", "disprove_router", "find_router"]

ROUTED = (1, 5, 300)
"""Rows that go through a router's own weights."""
_PROBED = 48
_STEP, _SHIFT = 0.25, 0.0625
"""Of the logits that are ours: bfloat16 has them exactly, and none is another's negative, whose
sigmoids would sum to nearly the same."""
_UNDERFLOW = -120.0
"""Its sigmoid is 0: tells what shares are divided by where their sum is 0. Exact, too."""
_TINY = -40.0
"""Its sigmoid is 4e-18: tells what is added to a sum, or the least that is taken for one."""
_FACTORS = ("routed_scaling_factor", "router_scaling_factor", "route_scale")
_GROUPS = ("num_group", "n_group")
_EPSILON = 1e-20
LARGEST = 512
"""A warp has a row of them in registers."""
_NEAR = 2e-6
"""Relative: scores so near may be in another order, as an exponential may be rounded otherwise."""
SHARE_ERRORS = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-7}
"""Of a share, relative, and of `_LEAST` where it is less: what falls to the next number."""
_LEAST = 1e-3


@torch.no_grad()
def find_router(router: Any, dtype: torch.dtype, likely: Container[str] = ()) -> Router | None:
    """What answers as the module does, by the definition; rows are of the dtype. None where it is
    nothing that is known here. `likely`: texts of choices that are tried first."""
    bias, correction = getattr(router, "bias", None), correction_of(router)
    x, eye = _probe(router, dtype)
    try:
        wide = _is_wide(router, _rows(router, ROUTED[1], dtype))
        _, *wanted = functional_call(router, {"weight": eye}, (x,))
        logits = multiply(x, eye, bias, wide)
        every = _candidates(router, wanted[1].shape[1], wanted[0].dtype)
        for choice in sorted(every, key=lambda one: one.text not in likely):
            worth = choice.scores(logits, correction)[1]
            if _fault(choice.apply(logits, correction), wanted, worth) is None:
                return Router(router, wide, choice).eval()
    except Exception as error:
        if is_out_of_memory(error):
            raise
    return None  # a module that is something else altogether


def _is_wide(router: Any, x: torch.Tensor) -> bool:
    """Whether logits are multiplied in float32. Raises ValueError where they are made otherwise."""
    wanted = router(x)[0].float()
    same_dtype = x.dtype == router.weight.dtype
    for wide in (False, True) if same_dtype else (True,):
        ours = multiply(x, router.weight, getattr(router, "bias", None), wide).float()
        if torch.equal(ours, wanted):
            return wide
    raise ValueError("logits are made otherwise")


def _candidates(router: Any, num_chosen: int, dtype: torch.dtype) -> Iterator[Choice]:
    """Its numbers go by many names; only those that prove to be meant are taken."""
    factors = {1.0, _number(router, _FACTORS)}
    groups = [(1, 1)]
    count, kept_groups = _number(router, _GROUPS), _number(router, ("topk_group",))
    if _fit_groups(int(count), int(kept_groups), len(router.weight), num_chosen):
        groups.append((int(count), int(kept_groups)))
    divided = ((False, 0.0), (True, 0.0), (True, _EPSILON))
    for function, shares, factor, of_groups in product(
        (SOFTMAX, SIGMOID, LOGITS), divided, sorted(factors), groups
    ):
        if function != LOGITS or (shares == divided[0] and of_groups == groups[0]):
            yield Choice(num_chosen, function, *shares, factor, *of_groups, dtype)


def _number(router: Any, names: tuple[str, ...]) -> float:
    """What it holds by one of the names; 1 where it holds none."""
    found = (getattr(router, name, None) for name in names)
    return next((float(one) for one in found if isinstance(one, int | float)), 1.0)


def _fit_groups(count: int, kept_groups: int, num_experts: int, num_chosen: int) -> bool:
    size, rest = divmod(num_experts, count) if count > 1 else (0, 0)
    return not rest and size > 1 and 0 < kept_groups < count and size * kept_groups >= num_chosen


def _probe(router: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and in place of the weights what makes them logits."""
    weight = router.weight
    num_experts, hidden = weight.shape
    draw = torch.Generator().manual_seed(num_experts)
    x = torch.zeros(_PROBED, hidden)
    x[:, :num_experts] = torch.randint(-16, 17, (_PROBED, num_experts), generator=draw) * _STEP
    x[:, :num_experts] += _SHIFT
    x[-10, 0], x[-10, 1:num_experts] = 4.0, -8.0  # all but one have the least of shares
    # Each the next number of bfloat16: scores that are rounded so are equal, and others are not.
    near = torch.arange(0, 20, 5)[:, None] + torch.arange(num_experts)
    near += int(torch.tensor(_SHIFT / 16, dtype=torch.bfloat16).view(torch.int16))
    x[-9:-5, :num_experts] = near.short().view(torch.bfloat16).float()
    x[-5, :num_experts], x[-4, :num_experts] = _TINY, _SHIFT
    x[-3, :num_experts], x[-1] = _UNDERFLOW, torch.nan
    # After a softmax all but the first are 0 and equal; before it, the later the larger.
    x[-2, 1:num_experts] = _UNDERFLOW - torch.arange(1, num_experts).flip(0) % 100
    eye = torch.eye(num_experts, hidden, dtype=weight.dtype, device=weight.device)
    return x.to(weight.device, dtype), eye


def _rows(router: Any, count: int, dtype: torch.dtype) -> torch.Tensor:
    """A half of them equal, which none is to take an expert from another."""
    weight = router.weight
    draw = torch.Generator().manual_seed(count)
    x = torch.randn(count, weight.shape[1], generator=draw)
    x[count // 2 + 1 :] = x[0]
    return x.to(weight.device, dtype)


@torch.no_grad()
def disprove_router(
    made: Router, router: Any, dtype: torch.dtype, counts: tuple[int, ...]
) -> str | None:
    """None, or what is wrong with the answers: with the router's own weights for so many rows, and
    with logits that are ours."""
    x, eye = _probe(router, dtype)
    asked = [(x, {"weight": eye}), *((_rows(router, count, dtype), {}) for count in counts)]
    for rows, numbers in asked:
        wanted_logits, *wanted = functional_call(router, numbers, (rows,))
        try:
            logits, *ours = functional_call(made, numbers, (rows,))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Of Triton or its compiler: the module as it was will serve.
            return f"{type(error).__name__}: {first_line(error)}"
        if not logits.float().equal(wanted_logits.float()) and not numbers:
            return f"logits of {len(rows)} rows differ"
        worth = Choice.read(made.choice_text).scores(logits, made.correction)[1]
        fault = _fault(ours, wanted, worth)
        if fault is not None:
            return fault
    return None


def _fault(
    ours: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], worth: torch.Tensor
) -> str | None:
    """What is wrong with shares and experts [num_tokens, num_chosen], in whatever order. `worth`:
    by what they were chosen. What is equal there is to be chosen as `wanted` has it."""
    (shares, chosen), (its_shares, its_chosen) = ours, wanted
    forms = [(one.dtype, one.shape) for one in (*ours, *wanted)]
    if forms[:2] != forms[2:]:
        return f"answers are {forms[:2]}, not {forms[2:]}"
    if not chosen.equal(chosen.clamp(0, worth.shape[1] - 1)):
        return "one is no expert"
    own, its = (torch.zeros_like(worth).scatter_(1, one, 1.0) > 0 for one in (chosen, its_chosen))
    if int(own.sum()) != chosen.numel():
        return "an expert is chosen twice"
    usable = ~its_shares.isnan().any(1)
    if not usable.equal(~shares.isnan().any(1)):
        return "other rows are NaN"
    apart = own ^ its
    least = worth.masked_fill(~apart, torch.inf).amin(1)
    most = worth.masked_fill(~apart, -torch.inf).amax(1)
    near = (most > least) & (most - least <= _NEAR * most.abs())
    wrong = int((apart.any(1) & ~near & usable).sum())
    if wrong:
        return f"{counted(wrong, 'row')} of {len(worth)} with other experts"
    both = own & its & usable[:, None]
    if not both.any():
        return "all rows are NaN"
    one, other = (
        torch.zeros_like(worth).scatter_(1, places, values.float())[both]
        for values, places in ((shares, chosen), (its_shares, its_chosen))
    )
    error = float(((one - other).abs() / other.abs().clamp_min(_LEAST)).max())
    return None if error <= SHARE_ERRORS[shares.dtype] else f"a share differs by {error:.2g}"
