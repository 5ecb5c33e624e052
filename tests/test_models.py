"""A loaded model: what discovery found, what a forward answers, what its cache takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import completions_of
from tiny_models import VOCAB_SIZE, tiny_model

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.attention.select import BACKENDS, select_backend
from batchgen.engine.config import EngineConfig
from batchgen.engine.model.binding import CALL_ATTRIBUTE, CallCursor
from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.model.windows import MaskShape, probe_mask
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import build_engine, log_load_notes
from batchgen.engine.run.loader import load_model, load_model_from
from batchgen.errors import UsageError

CPU = torch.device("cpu")


def model_of(model_type: str, **changes: Any) -> Model:
    return load_model_from(tiny_model(model_type, **changes), ReferenceBackend())


def forward(model: Model, prompts: list[list[int]], indices: list[int]) -> torch.Tensor:
    pieces = [Piece((i,), 0, len(prompt)) for i, prompt in enumerate(prompts)]
    ids = torch.tensor([token for prompt in prompts for token in prompt])
    places = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
    metadata = make_metadata(pieces, 16, CPU)
    return model.forward(ids, places, metadata, torch.tensor(indices, dtype=torch.int64))


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llama", {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "scale": 8**-0.5}),
        ("opt", {"num_heads": 4, "num_kv_heads": 4, "scale": 1.0}),
        ("gemma2", {"softcap": 2.0, "sliding_window": 9, "scale": 8**-0.5}),
        ("gpt_oss", {"has_sinks": True, "sliding_window": 9}),
        ("deepseek_v3", {"num_kv_heads": 4, "head_dim": 16, "v_head_dim": 12}),
        ("gpt_bigcode", {"num_heads": 4, "num_kv_heads": 1}),
        ("granite", {"scale": 1.0}),
    ],
)
def test_discovery_sees_each_call_as_the_model_makes_it(
    model_type: str, expected: dict[str, Any]
) -> None:
    specs = model_of(model_type).specs
    assert [spec.index for spec in specs] == [0, 1, 2]
    assert {name: getattr(specs[0], name) for name in expected} == pytest.approx(expected)


def test_modules_that_attend_several_times_get_a_cursor() -> None:
    model = model_of("diffllama")
    assert len(model.specs) == 2 * 3
    assert len(model.cursors) == 3
    single = model_of("llama").module.model.layers[0].self_attn
    assert not isinstance(getattr(single, CALL_ATTRIBUTE), CallCursor)


def test_two_models_live_side_by_side() -> None:
    one, other = model_of("llama"), model_of("llama", seed=1)
    one.allocate_cache(2, 16)
    other.allocate_cache(2, 16)
    prompts = [[5, 6, 7], [8, 9]]
    before = forward(one, prompts, [2, 4])
    forward(other, [[1, 2, 3, 4]], [3])
    one.allocate_cache(2, 16)
    torch.testing.assert_close(forward(one, prompts, [2, 4]), before)
    assert not torch.allclose(forward(other, prompts, [2, 4]), before)


def test_logits_come_for_the_asked_places_alone() -> None:
    model = model_of("gpt2")
    model.allocate_cache(2, 16)
    prompts = [[5, 6, 7], [8, 9]]
    everywhere = forward(model, prompts, [0, 1, 2, 3, 4])
    assert everywhere.shape == (5, VOCAB_SIZE)
    torch.testing.assert_close(forward(model, prompts, [4, 2]), everywhere[[4, 2]])
    assert forward(model, prompts, []).shape == (0, VOCAB_SIZE)


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3", "gemma2", "diffllama"])
def test_bytes_per_block_is_what_the_cache_takes(model_type: str) -> None:
    model = model_of(model_type)
    model.allocate_cache(3, 16)
    taken = sum(call.cache.key.nbytes + call.cache.value.nbytes for call in model.calls)
    assert model.bytes_per_block(16) * 3 == taken
    model.release_cache()
    assert all(call.cache is None for call in model.calls)


def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path) -> None:
    tiny_model("qwen3").to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(EngineConfig(model=tmp_path, device="cpu"))
    assert (model.model_type, model.vocab_size, model.max_position) == ("qwen3", VOCAB_SIZE, 256)
    assert model.dtype == torch.bfloat16
    wide = load_model(EngineConfig(model=tmp_path, device="cpu", dtype="float32"))
    assert wide.dtype == torch.float32


def test_code_that_takes_tokens_in_a_way_of_its_own_is_told_of() -> None:
    module = tiny_model("llama")
    assert load_model_from(module, ReferenceBackend()).cautions == []

    class Own(type(module)):  # type: ignore[misc]
        def _sample(self) -> None: ...

    module.__class__ = Own
    module.generate = print  # as a folder's custom_generate does
    (said,) = load_model_from(module, ReferenceBackend()).cautions
    assert "own generate, _sample is not used" in said


def test_the_backend_can_be_chosen_by_name() -> None:
    assert select_backend(CPU, "reference").name == "reference"
    assert select_backend(CPU).name == "cpu"
    with pytest.raises(UsageError, match="does not run on cpu"):
        select_backend(CPU, "triton")
    with pytest.raises(UsageError, match="unknown attention backend"):
        select_backend(CPU, "abacus")
    assert set(BACKENDS) == {"reference", "cpu", "triton"}


@pytest.mark.parametrize("window", [1, 2, 9, 64, 99])
def test_a_sliding_window_is_read_off_a_mask(window: int) -> None:
    def mask(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key > query - window)

    assert probe_mask(mask, 100) == MaskShape(window=window)


def test_masks_of_other_shapes_are_told_apart() -> None:
    def causal(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return key <= query

    def chunked(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key // 8 == query // 8)

    def future(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return key <= query + 1

    assert probe_mask(causal, 100) == MaskShape()
    assert probe_mask(chunked, 100) == MaskShape(exact_length=8)
    assert probe_mask(future, 100) is None


@pytest.mark.parametrize(
    ("blocks", "shape"), [((-1,) * 5, MaskShape()), ((-1, 0, 0, -1, -1), None)]
)
def test_blocks_of_the_tokens_that_are_there_do_not_hide_what_lies_past_them(
    blocks: tuple[int, ...], shape: MaskShape | None
) -> None:
    """Models that see let the tokens of an image see each other; text is in no block."""
    of = torch.tensor([blocks])

    def mask(batch: torch.Tensor, _: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        block = of[batch, query]
        return (key <= query) | ((block == of[batch, key]) & (block >= 0))

    assert probe_mask(mask, 100) == shape


def test_a_mask_is_asked_on_the_device_where_its_own_tensors_lie() -> None:
    padding, asked = torch.zeros(1, dtype=torch.int64, device="meta"), set()

    def chunked(batch: torch.Tensor, _: Any, query: torch.Tensor, key: torch.Tensor) -> Any:
        asked.add(((key - padding[batch]) // 8 == (query - padding[batch]) // 8).device.type)
        return key.new_ones(query.shape, dtype=torch.bool, device="cpu")

    assert probe_mask(chunked, 100, padding.device) is None
    assert asked == {"meta"}
    with pytest.raises(RuntimeError, match="device"):
        probe_mask(chunked, 100)


def test_a_pruned_head_takes_prompts_of_all_input_embeddings() -> None:
    module = tiny_model("llama")
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight[:60].clone())
    module.lm_head.out_features = 60
    model = load_model_from(module.eval(), ReferenceBackend())
    assert (model.vocab_size, model.input_vocab_size) == (60, VOCAB_SIZE)
    engine = build_engine(model, EngineConfig(model=Path("tiny"), max_num_seqs=2))
    params = SamplingParams(max_tokens=4, ignore_eos=True, repetition_penalty=1.3)
    done = completions_of(engine, [Request(0, [5, 90, 96], params)])
    assert done[0].error_code is None
    assert len(done[0].token_ids) == 4
    engine.close()


@pytest.mark.parametrize(("asked", "level"), [(None, "WARNING"), (32, "INFO")])
def test_a_length_that_cuts_rows_is_said_aloud_unless_it_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: int | None, level: str
) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 64}
    small = {"max_position_embeddings": 64, "rope_parameters": rope}
    module = tiny_model("llama", **small)
    for part in module.modules():
        if hasattr(part, "original_max_seq_len"):
            part.original_max_seq_len = 32
    model = load_model_from(module, ReferenceBackend())
    assert model.max_position == 32
    with caplog.at_level("INFO", "batchgen"):
        log_load_notes(model, EngineConfig(model=tmp_path, max_model_len=asked))
    said = [record for record in caplog.records if "limited to 32" in record.message]
    assert [record.levelname for record in said] == [level]
