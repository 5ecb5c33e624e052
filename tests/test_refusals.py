"""Models that cannot be served exactly are refused by name, before any row, with exit code 2."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import MIXED, REFUSED, tiny_model

from batchgen import errors
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.checkpoint.load_failures import load_failure
from batchgen.engine.config import EngineConfig
from batchgen.engine.device import resolve_device
from batchgen.engine.run.factory import load_engine
from batchgen.engine.run.loader import load_model, load_model_from
from batchgen.errors import ModelRefusedError, UsageError


@pytest.mark.parametrize("model_type", REFUSED)
def test_it_is_refused_by_name_with_the_reason(model_type: str) -> None:
    with pytest.raises(ModelRefusedError, match=REFUSED[model_type][1]) as caught:
        load_model_from(tiny_model(model_type), ReferenceBackend())
    assert repr(model_type) in caught.value.message
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("model.layers.1.mlp.up_proj.weight", float("nan"), "nor is its weight '{}'"),
        ("lm_head.weight", float("inf"), "nor is its weight '{}'"),
        ("model.layers.1.self_attn.q_proj.weight", float("nan"), "nor is its weight '{}'"),
        ("model.layers.1.mlp.up_proj.weight", 3e38, "they overflow in float32"),
    ],
)
def test_weights_that_are_not_numbers_are_not_taken_for_another_kind_of_model(
    name: str, value: float, what: str
) -> None:
    module = tiny_model("llama")
    module.get_parameter(name)[3].fill_(value)
    with pytest.raises(ModelRefusedError, match=what.format(re.escape(name))) as caught:
        load_model_from(module, ReferenceBackend())
    assert "not finite" in caught.value.message
    assert "state" not in caught.value.message


def test_scores_too_large_for_float16_are_named_with_the_dtypes_that_hold_them() -> None:
    module = tiny_model("llama").to(torch.float16)
    for layer in module.model.layers:
        layer.self_attn.q_proj.weight.data *= 1000
        layer.self_attn.k_proj.weight.data *= 1000
    with pytest.raises(ModelRefusedError, match="they overflow in float16") as caught:
        load_model_from(module, ReferenceBackend())
    assert "bfloat16" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_attention_without_heads_is_refused_before_a_kernel_counts_by_them() -> None:
    module = tiny_model("mistral", num_attention_heads=0)
    with pytest.raises(ModelRefusedError, match=r"'mistral'.* without heads"):
        load_model_from(module)


def test_state_that_barely_shows_is_found_all_the_same() -> None:
    """A convolution whose output is scaled to nothing still carries one token to the next."""
    module = tiny_model("lfm2")
    for name, parameter in module.named_parameters():
        if "conv" in name:
            parameter.mul_(1e-6)
    with pytest.raises(ModelRefusedError, match="state outside attention"):
        load_model_from(module, ReferenceBackend())


def longrope(length: int) -> dict[str, Any]:
    """Other frequencies for rows that are longer."""
    own = {"original_max_position_embeddings": length}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    return own | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4} | factors | own}


@pytest.mark.parametrize("length", [4, 21])
def test_other_frequencies_within_the_proof_s_lengths_are_named(length: int) -> None:
    with pytest.raises(ModelRefusedError, match=f"up to {length} tokens only, its RoPE") as caught:
        load_model_from(tiny_model("phi3", **longrope(length)), ReferenceBackend())
    assert "original_max_position_embeddings" in caught.value.hint
    assert (
        load_model_from(tiny_model("phi3", **longrope(22)), ReferenceBackend()).max_position == 22
    )


@pytest.mark.parametrize(
    ("model_type", "changes", "exact"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, 256),
        ("phi3", longrope(64), 64),
        ("llama4_text", {}, 63),
        ("llama4_text", {"attn_temperature_tuning": False}, 64),
    ],
)
def test_a_length_that_cannot_be_exact_is_refused_where_it_is_asked_for(
    model_type: str, changes: dict[str, Any], exact: int
) -> None:
    module = tiny_model(model_type, **changes)
    assert load_model_from(module, ReferenceBackend()).max_position == exact
    if exact < 256:
        with pytest.raises(ModelRefusedError, match=f"up to {exact} tokens only"):
            load_model_from(module, ReferenceBackend(), max_model_len=exact + 1)


def test_a_window_that_only_the_mask_knows_is_found() -> None:
    for model_type in ("qwen2_moe", "phimoe"):
        model = load_model_from(tiny_model(model_type), ReferenceBackend())
        assert 9 in {spec.sliding_window for spec in model.specs}


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    module = tiny_model("llama")
    weights = {k: v for k, v in module.state_dict().items() if "layers.1.mlp" not in k}
    module.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ModelRefusedError, match="lacks 3 weights"):
        load_model(EngineConfig(model=tmp_path, device="cpu"))


def test_an_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    tiny_model("whisper").config.save_pretrained(tmp_path)
    with pytest.raises(ModelRefusedError, match=r"'whisper'.*encoder-decoder"):
        load_model(EngineConfig(model=tmp_path, device="cpu"))


def test_pickled_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    module = tiny_model("llama")
    module.config.save_pretrained(tmp_path)
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelRefusedError, match="cannot be loaded"):
        load_model(EngineConfig(model=tmp_path, device="cpu"))
    model = load_model(EngineConfig(model=tmp_path, device="cpu", allow_pickle=True))
    assert model.model_type == "llama"


def test_a_model_that_cannot_be_loaded_says_why_on_one_line_and_what_next(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    cases: dict[str, tuple[dict[str, Any], bytes, str, str]] = {
        "cut": ({}, weights[:900], "deserializing header", "cut off"),
        "wide": (
            {"hidden_size": 64},
            weights,
            r"other shapes.*\[97, 32\], not \[97, 64\]",
            "archi",
        ),
        "deep": ({"num_hidden_layers": 9}, weights, "lacks 54 weights", "incomplete"),
        "new": ({"model_type": "next-year's"}, weights, "does not recognize", "update it"),
        "typed": ({"hidden_size": "wide"}, weights, "expected int", r"correct its config\.json"),
    }
    for name, (changes, content, message, hint) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | changes))
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelRefusedError, match=message) as refused:
            load_model(EngineConfig(model=folder, device="cpu"))
        assert "\n" not in refused.value.message
        assert re.search(hint, refused.value.hint or ""), refused.value.hint
    broken = load_failure(tmp_path, torch.OutOfMemoryError("CUDA out of memory. Tried ..."))
    assert "does not fit into memory" in broken.message
    assert "--dtype" in (broken.hint or "")


def test_every_error_says_what_to_do_next() -> None:
    """The second argument of every error of `batchgen.errors` that a user can meet."""
    kinds = {name for name in errors.__all__ if name not in ("ErrorCode", "RowError")}
    lacking = []
    for path in Path(errors.__file__).parent.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for call in [node for node in nodes if isinstance(node, ast.Call)]:
            given = len(call.args) + len(call.keywords)
            if getattr(call.func, "id", "") in kinds and given < 2:
                lacking.append(f"{path}:{call.lineno}")
    assert not lacking


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": Path("nowhere")}, "is not there"),
        ({"model": Path("."), "dtype": "float8"}, "unknown dtype"),
        ({"model": Path("."), "device": "abacus"}, "'abacus' is unknown"),
        ({"model": Path("."), "device": "mps"}, "'mps' is not served"),
    ],
)
def test_words_that_are_off_are_usage_errors(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(EngineConfig(**{"device": "cpu", **config}))


def test_a_cuda_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="cuda:99"):
        resolve_device("cuda:99")


def test_layers_of_both_kinds_keep_their_own_window() -> None:
    model = load_model_from(tiny_model("gemma2"), ReferenceBackend())
    windows = [spec.sliding_window for spec in model.specs]
    assert windows == [9 if kind == "sliding_attention" else None for kind in MIXED]


def test_a_device_that_others_fill_during_the_load_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver raises outside of torch's allocator is no OutOfMemoryError."""
    tiny_model("llama").save_pretrained(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`")

    for module in (
        "batchgen.engine.model.proof.own_logits",
        "batchgen.engine.model.discovery._tiny_forward",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, full)
            with pytest.raises(ModelRefusedError, match="does not fit into memory"):
                load_engine(EngineConfig(model=tmp_path, device="cpu"))
