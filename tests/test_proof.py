"""The proof at load fails when anything of the paged path is off, and leaves no trace when not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.model.discovery import clone_module, discover
from batchgen.engine.model.proof import confirm, prove
from batchgen.engine.model.shrink import SMALL, shrink
from batchgen.engine.run.loader import load_model_from
from batchgen.errors import ModelRefusedError


class BrokenBackend(ReferenceBackend):
    """Attention with one thing wrong."""

    def __init__(self, breakage: Callable[[AttentionMetadata, AttentionSpec], AttentionSpec]):
        self.breakage = breakage

    def forward(self, *call: Any) -> torch.Tensor:  # type: ignore[override]
        *tensors, spec, metadata, sinks = call
        return super().forward(*tensors, self.breakage(metadata, spec), metadata, sinks)


def respecified(spec: AttentionSpec, **changes: Any) -> AttentionSpec:
    fields = {name: getattr(spec, name) for name in spec.__slots__}
    return AttentionSpec(**{**fields, **changes})


def leak(metadata: AttentionMetadata, spec: AttentionSpec) -> AttentionSpec:
    metadata.host.query_seq.zero_()
    metadata.host.key_seq.zero_()
    return spec


def forget_writes(metadata: AttentionMetadata, spec: AttentionSpec) -> AttentionSpec:
    if metadata.max_seqlen_q == 1:
        metadata.host.written = metadata.host.written[:0]
        metadata.host.written_slot = metadata.host.written_slot[:0]
    return spec


BREAKAGES: dict[str, Callable[[AttentionMetadata, AttentionSpec], AttentionSpec]] = {
    "sequences see each other": leak,
    "decoded keys are not kept": forget_writes,
    "no window": lambda _, spec: respecified(spec, sliding_window=None),
    "a window one too long": lambda _, spec: respecified(spec, sliding_window=SMALL + 1),
    "another scale": lambda _, spec: respecified(spec, scale=spec.scale * 1.1),
    "a soft cap": lambda _, spec: respecified(spec, softcap=1.0),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_backend_with_one_thing_wrong_is_found_out(name: str) -> None:
    with pytest.raises(ModelRefusedError, match=r"'mistral'.*differ from the model's own forward"):
        load_model_from(tiny_model("mistral"), BrokenBackend(BREAKAGES[name]))


def test_sinks_that_are_left_out_are_found_out() -> None:
    class NoSinks(ReferenceBackend):
        def forward(self, *args: Any) -> torch.Tensor:
            return super().forward(*args[:6])

    with pytest.raises(ModelRefusedError, match="differ from the model's own forward"):
        load_model_from(tiny_model("gpt_oss"), NoSinks())


def test_logits_that_are_not_numbers_do_not_pass() -> None:
    class Nans(ReferenceBackend):
        def forward(self, *args: Any) -> torch.Tensor:
            return super().forward(*args) * torch.nan

    with pytest.raises(ModelRefusedError):
        load_model_from(tiny_model("llama"), Nans())


def test_the_model_is_left_as_it_was() -> None:
    module = tiny_model("gemma2")
    config, weights = (
        module.config.to_dict(),
        {k: v.clone() for k, v in module.state_dict().items()},
    )
    model = load_model_from(module, ReferenceBackend())
    assert {**module.config.to_dict(), "_attn_implementation": None} == {
        **config,
        "_attn_implementation": None,
    }
    assert all(torch.equal(weights[k], v) for k, v in module.state_dict().items())
    assert all(call.cache is None for call in model.calls)


def test_a_clone_shares_weights_and_nothing_else() -> None:
    module = tiny_model("llama")
    clone = clone_module(module)
    pairs = zip(module.parameters(), clone.parameters(), strict=True)
    assert all(own is other for own, other in pairs)
    assert clone.config is not module.config
    assert clone.model.rotary_emb.inv_freq is not module.model.rotary_emb.inv_freq


def test_windows_are_lowered_wherever_the_model_keeps_them() -> None:
    clone = clone_module(tiny_model("gemma2"))
    assert shrink(clone, 256)
    windows = {spec.sliding_window for spec in discover(clone, "gemma2", 97).specs}
    assert windows == {SMALL, None}
    assert not shrink(clone, 256)


def test_a_window_that_no_sequence_can_reach_stays() -> None:
    assert not shrink(clone_module(tiny_model("mistral", sliding_window=256)), 256)


def test_an_optimisation_that_changes_answers_is_refused() -> None:
    def spoil(module: Any) -> None:
        module.model.norm.weight.mul_(torch.linspace(0.9, 1.1, 32))

    with pytest.raises(ModelRefusedError, match="differ"):
        load_model_from(tiny_model("llama"), ReferenceBackend(), optimize=spoil)
    load_model_from(tiny_model("llama"), ReferenceBackend(), optimize=spoil, confirmed=False)


def test_confirm_accepts_what_prove_returned() -> None:
    module = tiny_model("mistral")
    backend = ReferenceBackend()
    expected = prove(module, discover(module, "mistral", 97), backend, 256)
    model = load_model_from(module, backend)
    with pytest.raises(ModelRefusedError):  # the window of 9 is crossed, and answers the same
        confirm(model, [logits.flip(0) for logits in expected])
    confirm(model, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_passes(dtype: torch.dtype) -> None:
    assert load_model_from(tiny_model("qwen3").to(dtype), ReferenceBackend()).dtype == dtype


def test_experts_that_change_sides_at_a_rounding_are_not_taken_for_a_fault() -> None:
    module = tiny_model("flex_olmo").to(torch.bfloat16)
    load_model_from(module, ReferenceBackend())
    with pytest.raises(ModelRefusedError, match="differ from the model's own forward"):
        load_model_from(module, BrokenBackend(leak))
