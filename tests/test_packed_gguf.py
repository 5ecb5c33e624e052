"""Promise: on the CPU a quantised `.gguf` file's weights stay as small as the file, and say so."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import completions_of
from test_gguf import write_gguf
from tiny_models import answer_among, runs_as_one, tiny_model

from batchgen import gguf_header
from batchgen.engine.checkpoint.gguf import load_gguf
from batchgen.engine.config import EngineConfig
from batchgen.engine.gguf.module import make_module
from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.quant import QuantKernels
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof_logits import logits_at
from batchgen.engine.packed.layers import PackedEmbedding, PackedLayer
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import load_engine
from batchgen.engine.run.loader import load_model
from batchgen.errors import UsageError
from batchgen.gguf.architectures.plan import Plan
from batchgen.gguf.tokenizer.special import named_id
from batchgen.gguf.weights_kept import decide_quantization
from batchgen.gguf_header import read_gguf_header
from batchgen.job.ledger.fingerprint import fingerprint_of
from batchgen.job.model.files import resolve_model
from batchgen.job.run.stages import engine_config
from batchgen.job.spec import InputSpec, JobSpec

gguf = pytest.importorskip("gguf")
needs_compiler = pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
Q4_1 = gguf.GGMLQuantizationType.Q4_1
Q8_0 = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama", intermediate_size=64), Q4_1)
    return tmp_path / "tiny.gguf"


def load(path: Path, **more: Any) -> Model:
    return load_model(EngineConfig(model=path, device="cpu", **more))


def packed_names(module: Any) -> set[str]:
    kinds = (PackedLayer, PackedEmbedding)
    return {name for name, part in module.named_modules() if isinstance(part, kinds)}


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def test_an_engine_that_is_closed_holds_no_weights(path: Path) -> None:
    engine = load_engine(EngineConfig(model=path, device="cpu", max_num_seqs=2))
    done = completions_of(engine, [Request(0, [5, 6], SamplingParams(max_tokens=2))])
    weights = weakref.ref(engine._runner._model.module.get_input_embeddings())  # type: ignore[attr-defined]
    assert weights() is not None
    engine.close()
    assert weights() is None
    assert len(done[0].token_ids) == 2


def test_a_vocabulary_is_forgotten_before_weights_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[object] = []

    def make(plan: Plan, *args: Any, **more: Any) -> Any:
        held.extend(key for key in plan.file.metadata if key.startswith("tokenizer."))
        held.extend([None] * gguf_header._read_cached.cache_info().currsize)
        return make_module(plan, *args, **more)

    assert any(key.startswith("tokenizer.") for key in read_gguf_header(path).metadata)
    monkeypatch.setattr("batchgen.engine.checkpoint.gguf.make_module", make)
    module = load_gguf(path, "auto")
    assert not held
    assert module.config.eos_token_id == named_id(read_gguf_header(path).metadata, "eos")


@needs_compiler
def test_by_default_every_matrix_stays_packed_and_the_layers_run_as_one(path: Path) -> None:
    model, dense = load(path), load(path, dtype="float32")
    assert model.dtype == torch.float32
    assert len(packed_names(model.module)) == 3 * 7 + 2
    assert not packed_names(dense.module)
    assert runs_as_one(model)
    assert model.weights is not None
    assert dense.weights is not None
    assert model.weights.num_bytes < 0.2 * dense.weights.num_bytes
    got, wanted = (logits_at(one) for one in (model, dense))
    assert 0 < error(got, wanted) < 0.03


@needs_compiler
def test_a_row_is_the_same_alone_and_beside_others(path: Path) -> None:
    model = load(path)
    model.allocate_cache(64, 16)
    alone = answer_among(model, 1)
    assert all(torch.equal(answer_among(model, count), alone) for count in (2, 3, 9, 20))


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_asking_for_the_files_blocks_gives_them_with_any_dtype(path: Path, dtype: str) -> None:
    model = load(path, dtype=dtype, quantization="gguf")
    assert packed_names(model.module)
    assert model.dtype == getattr(torch, dtype)
    wanted = load(path, dtype="float32")
    got, wanted_logits = (logits_at(one).float() for one in (model, wanted))
    assert error(got, wanted_logits) < 0.05


def test_asking_for_none_dequantises(path: Path) -> None:
    assert not packed_names(load(path, quantization="none").module)


def test_without_a_compiler_packed_weights_answer_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = load(path, quantization="gguf")
    monkeypatch.setattr(QuantKernels, "load", staticmethod(lambda: None))
    plain = load(path, quantization="gguf")
    assert len(packed_names(plain.module)) == 3 * 7 + 2
    got, wanted = (logits_at(one) for one in (plain, compiled))
    assert error(got, wanted) < 0.02


def test_the_oracle_still_reads_the_file_a_second_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "batchgen.engine.checkpoint.gguf.check_attention",
        lambda module, plan: seen.extend(
            part.exact for part in module.modules() if isinstance(part, PackedLayer)
        ),
    )
    module = load_gguf(path, "auto", packed=True)
    assert seen
    assert all(seen)
    assert not any(part.exact for part in module.modules() if isinstance(part, PackedLayer))


def test_a_tied_head_shares_the_embeddings_blocks(tmp_path: Path) -> None:
    module = tiny_model("llama", intermediate_size=64, tie_word_embeddings=True)
    write_gguf(tmp_path / "tied.gguf", module, Q8_0, {"output": None})
    loaded = load_gguf(tmp_path / "tied.gguf", "auto", packed=True)
    table, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    assert head.product.weights[0] is table.packed
    ids = torch.tensor([[1, 5]])
    dense = load_gguf(tmp_path / "tied.gguf", torch.float32)
    assert torch.equal(table(ids), dense.get_input_embeddings()(ids))


@needs_compiler
def test_types_mix_within_a_file_and_what_cannot_stay_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = tiny_model("llama", intermediate_size=64)
    kinds = gguf.GGMLQuantizationType
    mixed = {"attn_v": kinds.Q8_0, "ffn_down": kinds.Q5_0, "output": kinds.F16}
    write_gguf(tmp_path / "mixed.gguf", module, Q4_1, mixed | {"attn_output": kinds.MXFP4})
    with caplog.at_level(logging.INFO):
        model = load(tmp_path / "mixed.gguf")
    names = packed_names(model.module)
    assert len(names) == 3 * 6 + 1
    assert not any(name.endswith(("o_proj", "lm_head")) for name in names)
    said = [line for line in caplog.messages if "dequantised" in line]
    assert len(said) == 1
    assert "self_attn.o_proj.weight" in said[0]
    dense = load(tmp_path / "mixed.gguf", dtype="float32")
    got, wanted = (logits_at(one) for one in (model, dense))
    assert error(got, wanted) < 0.03


def test_the_flag_is_refused_where_it_would_do_nothing(tmp_path: Path, path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "folder")
    with pytest.raises(UsageError, match="gguf file"):
        load(tmp_path / "folder", quantization="gguf")
    with pytest.raises(UsageError, match="float32 or bfloat16"):
        load(path, dtype="float16", quantization="gguf")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "gguf"),
        ({"devices": ["cpu:0", "cpu:1"]}, "gguf"),
        ({"devices": ["cuda:0"]}, "none"),
        ({"dtype": "float32"}, "none"),
        ({"has_adapters": True}, "none"),
        ({"asked": "gguf", "dtype": "float32"}, "gguf"),
        ({"asked": "none"}, "none"),
        ({"asked": "int8"}, "int8"),
    ],
)
def test_what_a_file_gets_is_known_before_anything_is_loaded(
    path: Path, changes: dict[str, Any], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "true")
    monkeypatch.delenv("BATCHGEN_CPU_KERNEL", raising=False)
    asked = changes.pop("asked", None) if "asked" in changes else None
    given: dict[str, Any] = {"devices": ["cpu"], **changes}
    assert decide_quantization(asked, path, **given) == wanted
    monkeypatch.setenv("BATCHGEN_CPU_KERNEL", "0")
    if asked is None:
        assert decide_quantization(asked, path, **given) == "none"


def test_files_of_floats_and_folders_are_as_they_were(tmp_path: Path) -> None:
    module = tiny_model("llama", intermediate_size=64)
    write_gguf(tmp_path / "plain.gguf", module, gguf.GGMLQuantizationType.F16)
    for path in (tmp_path / "plain.gguf", tmp_path):
        assert decide_quantization(None, path, devices=["cpu"]) == "none"


def test_how_weights_are_held_is_part_of_the_jobs_fingerprint(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "true")
    monkeypatch.delenv("BATCHGEN_CPU_KERNEL", raising=False)
    files = resolve_model(str(path))

    def held(**more: Any) -> Any:
        spec = JobSpec(InputSpec(("a",)), Path("o"), model=str(path), **more)
        assert (
            engine_config(spec, files).quantization == fingerprint_of(spec, files)["quantization"]
        )
        return fingerprint_of(spec, files)["quantization"]

    assert held(device="cpu") == held(devices="cpu:0,cpu:1") == "gguf"
    assert held(device="cpu", deterministic=True) == held(device="cuda") == "none"
    with pytest.raises(UsageError, match="deterministic"):
        held(device="cpu", deterministic=True, quantization="gguf")
