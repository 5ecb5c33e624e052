"""A `.gguf` file becomes the model it was made from, with the special tokens that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from batchgen.engine.checkpoint.gguf import load_gguf
from batchgen.engine.config import EngineConfig
from batchgen.engine.run.loader import load_model
from batchgen.errors import ModelRefusedError
from batchgen.gguf_header import read_gguf_header

gguf = pytest.importorskip("gguf")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "model.layers": "blk",
}
HEADS = {"attn_q": 4, "attn_k": 2}


def write_gguf(path: Path, module: Any, kind: Any, kinds: Mapping[str, Any] | None = None) -> None:
    """A llama as llama.cpp's converter lays it out: rotary halves interleaved in q and k. `kinds`:
    of tensors by their stem; None leaves one out."""
    config = module.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(0 if kind == gguf.GGMLQuantizationType.F32 else 7)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_bos_token_id(5)
    writer.add_eos_token_id(7)
    writer.add_pad_token_id(9)
    for name, tensor in module.state_dict().items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        data = interleaved(tensor.numpy(), HEADS.get(name.split(".")[-2]))
        own = kind if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        own = (kinds or {}).get(name.split(".")[-2], own)
        if own is None:
            continue
        writer.add_tensor(name, gguf.quantize(data, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(weight: Any, heads: int | None) -> Any:
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


@pytest.fixture
def module() -> Any:
    return tiny_model("llama", intermediate_size=64)


def test_its_weights_are_those_it_was_made_from(tmp_path: Path, module: Any) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, module, gguf.GGMLQuantizationType.F32)
    loaded = load_gguf(path, "auto")
    assert loaded.dtype == torch.float32
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, msg=name)


def test_quantised_weights_come_out_dense_in_the_wanted_dtype(tmp_path: Path, module: Any) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, module, gguf.GGMLQuantizationType.Q8_0)
    assert load_gguf(path, "auto").dtype == torch.bfloat16
    model = load_model(EngineConfig(model=path, device="cpu", dtype="float32"))
    assert (model.dtype, model.model_type, len(model.specs)) == (torch.float32, "llama", 3)
    loaded = load_gguf(path, torch.float32).state_dict()["model.layers.0.mlp.up_proj.weight"]
    original = module.state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert type(loaded) is torch.Tensor
    assert 0 < (loaded - original).abs().max() < 0.01


def test_half_precision_beside_float32_norms_is_taken_as_it_is(tmp_path: Path, module: Any) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, module, gguf.GGMLQuantizationType.F16)
    loaded = load_gguf(path, "auto")
    assert loaded.dtype == torch.float16
    weight = module.state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(loaded.state_dict()["model.layers.0.mlp.up_proj.weight"], weight.half())


def test_special_tokens_are_the_files_own(tmp_path: Path, module: Any) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, module, gguf.GGMLQuantizationType.F32)
    loaded = load_gguf(path, torch.float32)
    for holder in (loaded.config, loaded.generation_config):
        tokens = (holder.bos_token_id, holder.eos_token_id, holder.pad_token_id)
        assert tokens == (5, 7, 9)
    assert read_gguf_header(path).metadata["llama.block_count"] == 3


def test_nothing_is_printed_while_loading(
    tmp_path: Path, module: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, module, gguf.GGMLQuantizationType.Q8_0)
    capfd.readouterr()
    load_model(EngineConfig(model=path, device="cpu"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 not a model", "not a whole GGUF file"),
        (b"GGUF\x03\x00\x00\x00", "not a whole GGUF file"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 32, "not a whole GGUF file"),
        (b"", "not a whole GGUF file"),
    ],
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelRefusedError, match=message):
        load_model(EngineConfig(model=path, device="cpu"))
