"""One kernel chooses the experts that a model's own router chooses, ties and what is no number
too; a router that is not proven stays."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_oracle import Oracle, assert_parity, run_engine
from tiny_models import tiny_model
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.config import EngineConfig
from batchgen.engine.mixture import replacing, router_proof
from batchgen.engine.mixture.choice import LOGITS, SIGMOID, SOFTMAX, Choice
from batchgen.engine.mixture.router import Router
from batchgen.engine.mixture.router_proof import disprove_router, find_router
from batchgen.engine.run import optimizing
from batchgen.engine.run.loader import load_model_from

pytest.importorskip("triton", reason="triton is not installed: no kernel to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16]
LAYER = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
DEEPSEEK = Choice(8, SIGMOID, True, 1e-20, 2.5, 8, 4)
QWEN = Choice(8, SOFTMAX, True)
CASES = [
    (40 if INTERPRETED else 300, 128, QWEN),
    (17, 128, replace(QWEN, dtype=torch.bfloat16)),
    (33, 60, Choice(4, SOFTMAX)),
    (1, 8, Choice(2, SOFTMAX, True)),
    (41, 9, Choice(9, SOFTMAX)),
    (23, 64, Choice(10, SOFTMAX, dtype=torch.bfloat16)),
    (70, 32, Choice(4, LOGITS)),
    (19, 128, Choice(1, LOGITS, dtype=torch.bfloat16)),
    (25, 256, DEEPSEEK),
    (21, 100, Choice(7, SIGMOID, True)),
    (20, 160, Choice(6, SOFTMAX, factor=16.0, num_groups=8, kept_groups=3)),
    (3, 512, replace(QWEN, num_chosen=10)),
]


@pytest.fixture(autouse=True)
def first_of_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.topk as CUDA has it, where it is not: of equal ones the first."""

    def topk(x: torch.Tensor, k: int, dim: int = -1, **_: Any) -> Any:
        values, places = x.sort(dim=dim, descending=True, stable=True)
        return torch.return_types.topk((values.narrow(dim, 0, k), places.narrow(dim, 0, k)))

    if INTERPRETED:
        monkeypatch.setattr(torch, "topk", topk)
        monkeypatch.setattr(torch.Tensor, "topk", topk)
        for module in (router_proof, replacing):
            monkeypatch.setattr(module, "ROUTED", (1, 5))


def logits_of(rows: int, experts: int, dtype: torch.dtype) -> torch.Tensor:
    """Half of the rows have few values, so that many are equal."""
    draw = torch.Generator().manual_seed(rows)
    logits = 3 * torch.randn(rows, experts, generator=draw)
    logits[::2] = torch.randint(-9, 9, logits[::2].shape, generator=draw) / 4 + 0.0625
    if rows > 16:
        logits[4], logits[5], logits[6] = 0.5, -120, -torch.inf
        logits[7, : experts // 2] = -torch.inf
        logits[8, 1] = logits[9, 2:4] = torch.inf
        logits[10, -1], logits[11] = torch.nan, torch.nan
    return logits.to(DEVICE, dtype)


def spread(choice: tuple[torch.Tensor, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Shares where the experts are, -1 elsewhere."""
    shares, chosen = choice
    out = torch.full_like(like, -1.0, dtype=torch.float32)
    return out.scatter_(1, chosen, shares.float())


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "experts", "choice"), CASES)
def test_experts_are_chosen_as_defined(
    rows: int, experts: int, choice: Choice, dtype: torch.dtype
) -> None:
    """Equal ones from the first on; shares from the largest on; rows of -inf and NaN as torch."""
    from batchgen.engine.mixture.choosing import choose_experts

    logits = logits_of(rows, experts, dtype)
    places = torch.arange(experts, device=DEVICE)
    correction = (places % 5 - 2) / 8 if choice.function == SIGMOID else None
    ours = choose_experts(logits, correction, choice.text)
    wanted = choice.apply(logits, correction)
    assert [(one.dtype, one.shape) for one in ours] == [(one.dtype, one.shape) for one in wanted]
    rounding = 1e-5 if choice.dtype == torch.float32 else 2**-7
    torch.testing.assert_close(
        spread(ours, logits), spread(wanted, logits), rtol=rounding, atol=0, equal_nan=True
    )
    worth = choice.scores(logits, correction)[1].gather(1, ours[1])
    falling = (worth[:, :-1] >= worth[:, 1:]) | worth.isnan().any(1, keepdim=True)
    assert bool(falling.all())


def router_of(name: str, **sizes: Any) -> Any:
    model = tiny_model(name, **LAYER, **sizes)
    blocks = [part for part in model.modules() if replacing._experts_within(part) is not None]
    return next(part for _, part in blocks[0].named_children() if hasattr(part, "top_k"))


GROUPED = {
    "num_experts": 12, "num_local_experts": 12, "n_routed_experts": 12, "num_experts_per_tok": 4,
    "n_group": 4, "topk_group": 2, "first_k_dense_replace": 0,
}  # fmt: skip
FOUND: dict[str, tuple[dict[str, Any], Choice]] = {
    "qwen3_moe": ({"norm_topk_prob": True}, Choice(2, SOFTMAX, True)),
    "qwen2_moe": ({}, Choice(2, SOFTMAX)),
    "olmoe": ({}, Choice(2, SOFTMAX)),
    "mixtral": ({}, Choice(2, SOFTMAX, True)),
    "gpt_oss": ({}, Choice(2, LOGITS)),
    "deepseek_v3": (
        GROUPED,
        Choice(4, SIGMOID, True, 1e-20, 2.5, 4, 2),
    ),
    "deepseek_v2": (
        GROUPED | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0},
        Choice(4, SOFTMAX, factor=16.0, num_groups=4, kept_groups=2),
    ),
    "glm4_moe": ({"first_k_dense_replace": 0}, Choice(2, SIGMOID, True, 1e-20)),
}  # fmt: skip


@direct
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FOUND)
def test_a_router_is_known_by_its_answers(name: str, dtype: torch.dtype) -> None:
    """With a bias and a correction that are no zeros; both dtypes of weights. The proof sees what
    differs in one number."""
    sizes, choice = FOUND[name]
    router = router_of(name, **sizes).to(DEVICE).eval()
    for part in (*router.parameters(), *router.buffers()):
        torch.nn.init.normal_(part, std=0.2)
    if name in ("qwen3_moe", "qwen2_moe", "olmoe", "mixtral", "gpt_oss"):
        router = router.to(dtype)
        shares = dtype if name != "mixtral" else torch.float32
        choice = replace(choice, dtype=shares)
    made = find_router(router, dtype)
    assert made is not None
    assert Choice.read(made.choice_text) == choice
    assert made.wide == (router.weight.dtype != dtype)
    assert disprove_router(made, router, dtype, (1, 5)) is None
    wrong = replace(choice, factor=choice.factor * 1.02), replace(choice, num_chosen=1)
    faults = [disprove_router(Router(router, made.wide, one), router, dtype, (5,)) for one in wrong]
    assert "a share differs" in str(faults[0])
    assert "answers are" in str(faults[1])
    made.weight = torch.nn.Parameter(made.weight * 1.01, requires_grad=False)
    assert disprove_router(made, router, dtype, (5,)) == "logits of 5 rows differ"


@direct
def test_the_proof_asks_for_the_routers_own_order_of_equal_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = router_of("mixtral").to(DEVICE)
    made = find_router(router, torch.float32)
    assert made is not None
    own = router.forward
    mirrored: Any = lambda x: last_of_equal(*own(x))  # noqa: E731

    def last_of_equal(logits: torch.Tensor, _: Any, chosen: torch.Tensor) -> Any:
        scores = logits.softmax(1)
        values, places = scores.flip(1).topk(chosen.shape[1])
        return logits, values / values.sum(1, keepdim=True), 3 - places

    monkeypatch.setattr(router, "forward", mirrored)
    assert "with other experts" in str(disprove_router(made, router, torch.float32, ()))


class OwnRouter(torch.nn.Module):
    """Chooses 2 of 16 by a function of logits."""

    def __init__(self, choose: Any, scale: float = 1.0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(16)
        self.weight = torch.nn.Parameter(scale * torch.randn(16, 32, generator=draw))
        self.choose = choose

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, shares, experts."""
        logits = torch.nn.functional.linear(x, self.weight)
        return logits, *self.choose(logits)


def divided(scores: torch.Tensor, by: Any) -> tuple[torch.Tensor, torch.Tensor]:
    values, chosen = scores.topk(2)
    return values / by(values.sum(1, keepdim=True)), chosen


def in_turn(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An expert takes 64 rows of a step."""
    shares, chosen = logits.softmax(1).topk(2)
    before = torch.nn.functional.one_hot(chosen, 16).sum(1).cumsum(0).gather(1, chosen)
    return shares.masked_fill(before > 64, 0.0), chosen


OTHERS: dict[str, tuple[torch.dtype, Any]] = {
    "something added": (torch.float32, lambda x: divided(x.sigmoid(), lambda sums: sums + 1e-6)),
    "a least sum": (torch.float32, lambda x: divided(x.sigmoid(), lambda sums: sums.clamp(1e-3))),
    "rounded": (torch.bfloat16, lambda x: x.softmax(1).topk(2)),
    "rounded too": (torch.bfloat16, lambda x: divided(x.sigmoid(), lambda sums: sums + 1e-20)),
    "small ones left out": (
        torch.float32,
        lambda x: (torch.threshold(x.softmax(1).topk(2)[0], 1e-4, 0.0), x.topk(2)[1]),
    ),
    "by the rows before": (torch.float32, in_turn),
}


@direct
@pytest.mark.parametrize("name", OTHERS)
def test_a_router_that_chooses_nearly_so_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seldom as the difference may show with its own weights, and whatever another one's proof
    has found."""
    monkeypatch.setattr(replacing, "ROUTED", (1, 5, 150))
    dtype, choose = OTHERS[name]
    known: set[str] = set()
    for scale in (1.0, 0.1):
        router = OwnRouter(choose, scale).to(DEVICE, dtype).requires_grad_(False)
        assert isinstance(replacing._chosen(router, dtype, known), str)
    assert not known


@direct
def test_a_router_that_is_told_more_than_rows_stays() -> None:
    class Told(OwnRouter):
        def forward(self, x: torch.Tensor, bias: Any = None) -> tuple[torch.Tensor, ...]:
            return super().forward(x)

    plain: Any = lambda logits: logits.softmax(1).topk(2)  # noqa: E731
    told = Told(plain).to(DEVICE).requires_grad_(False)
    own = OwnRouter(plain).to(DEVICE).requires_grad_(False)
    assert isinstance(replacing._chosen(own, torch.float32, set()), Router)
    assert replacing._chosen(told, torch.float32, set()) == "it is given more than rows"


@direct
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_a_model_with_one_kernel_for_its_choice_answers_as_generate(name: str) -> None:
    """Also where its config asks for what the router gave."""
    prompts = [list(range(3, 12)), [5, 6]]
    sizes = LAYER | ({"first_k_dense_replace": 0} if name == "deepseek_v3" else {})
    sizes |= {"output_router_logits": True}
    oracle = Oracle(tiny_model(name, **sizes).to(DEVICE))
    wanted = [oracle.generate(prompt, 2) for prompt in prompts]
    replaced = []
    model = load_model_from(
        tiny_model(name, **sizes).to(DEVICE),
        ReferenceBackend(),
        optimize=lambda module: replaced.append(replacing.replace_routers(module)),
    )
    assert replaced == [1]
    assert any(isinstance(part, Router) for part in model.module.modules())
    tokens = run_engine(model, prompts, 2)[0]
    assert_parity(oracle, prompts, wanted, tokens)


@direct
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("phimoe", "router: how it chooses is not known"),
        ("hunyuan_v1_moe", "mlp: it has no router"),
    ],
)
def test_a_router_that_is_not_proven_stays_with_a_word(
    name: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(name, num_hidden_layers=1).to(DEVICE)
    with caplog.at_level(logging.INFO):
        assert replacing.replace_routers(model) == 0
    assert "1 router as transformers runs them: model.layers.0" in caplog.text
    assert reason in caplog.text
    assert not any(isinstance(part, Router) for part in model.modules())


def test_ranks_that_share_a_model_choose_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is nearly equal would send a row to other experts on one of them."""
    module, replaced = torch.nn.Module(), []
    for name in ("replace_experts", "_join"):
        monkeypatch.setattr(optimizing, name, lambda _: None)
    monkeypatch.setattr(optimizing, "replace_routers", replaced.append)
    for ranks in (2, 1):
        config = EngineConfig(model=Path("any"), device="cuda", tensor_parallel=ranks)
        optimize = optimizing.optimizer_of(config, torch.device("cuda"))
        assert optimize is not None
        optimize(module)
        assert replaced == [module] * (ranks == 1)
