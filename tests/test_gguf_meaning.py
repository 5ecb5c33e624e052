"""A GGUF file means here what it means to llama.cpp, or it is refused by name.

`data/gguf_expected.json` holds llama.cpp's greedy tokens and their log-probabilities, written by
`python jobs/check_gguf.py --peer PYTHON_WITH_XLLAMACPP --keep tests/data/gguf_expected.json`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_gguf import (
    CASES,
    HIDDEN,
    LINEAR,
    PROMPT,
    ROT,
    SIZE,
    TWO,
    Case,
    attention,
    gated,
    tokens,
    write,
)

from batchgen.cli.main import cli
from batchgen.engine.checkpoint.gguf import load_gguf
from batchgen.engine.config import EngineConfig
from batchgen.engine.gguf import oracle
from batchgen.engine.run.loader import load_model_from
from batchgen.errors import ModelRefusedError
from batchgen.gguf.architectures import ARCHITECTURES
from batchgen.gguf.architectures.plan import read_plan
from batchgen.gguf.parts import part_paths
from batchgen.job.model.files import resolve_model
from batchgen.job.text.tokenizer import load_codec

gguf = pytest.importorskip("gguf")
EXPECTED = json.loads((Path(__file__).parent / "data" / "gguf_expected.json").read_text())
LLAMA = CASES["llama"]
F64 = gguf.GGMLQuantizationType.F64


def refusal(path: Path) -> str:
    with pytest.raises(ModelRefusedError) as caught:
        load_gguf(path, torch.float32)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_its_log_probabilities_are_llama_cpps(tmp_path: Path, name: str) -> None:
    module = load_gguf(write(tmp_path / "m.gguf", CASES[name]), torch.float32)
    chosen = [int(token) for token, _ in EXPECTED[name]]
    with torch.inference_mode():
        row = torch.tensor([PROMPT + chosen[:-1]])
        logits = module(input_ids=row, use_cache=False).logits[0, len(PROMPT) - 1 :]
    own = logits.log_softmax(-1)[torch.arange(len(chosen)), torch.tensor(chosen)]
    wanted = torch.tensor([value for _, value in EXPECTED[name]])
    assert len(chosen) == 100
    assert (own - wanted).abs().max() < 0.02


def blocks_of(kind: Any, num_outputs: int, num_inputs: int) -> Any:
    """Random ones, whose 16-bit numbers are all finite."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    shape = (num_outputs, num_inputs // values * size)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8) & 0xBB


@pytest.mark.parametrize(
    "kind",
    [one for one in gguf.GGMLQuantizationType if one.name != "F64"],
    ids=lambda one: one.name,
)
def test_each_type_is_what_the_gguf_package_reads_or_refused(tmp_path: Path, kind: Any) -> None:
    name, size = "blk.1.ffn_down.weight", (HIDDEN, 256)
    case = replace(LLAMA, keys=LLAMA.keys | {"feed_forward_length": 256})
    case = replace(case, layer=TWO | attention() | gated(256) | {"ffn_down.scale": (1,)})
    raw = blocks_of(kind, *size)
    path = write(tmp_path / "m.gguf", case, blocks={name: (raw, kind)})
    try:
        values = gguf.dequantize(raw, kind)
    except NotImplementedError:
        assert refusal(path)
        return
    tensors = {one.name: one.data for one in gguf.GGUFReader(path).tensors}
    factor = tensors["blk.1.ffn_down.scale"]
    weight = load_gguf(path, torch.float32).model.layers[1].mlp.down_proj.weight
    torch.testing.assert_close(weight.data, torch.from_numpy(values * factor), equal_nan=True)


def test_every_architecture_that_is_served_was_compared() -> None:
    compared = {CASES[name].architecture for name in EXPECTED}
    assert compared == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ["llama_rope_freqs", "gemma3_linear", "gpt-oss"])
def test_the_engine_serves_it_packed(tmp_path: Path, name: str) -> None:
    load_model_from(load_gguf(write(tmp_path / "m.gguf", CASES[name]), torch.float32))


@pytest.mark.parametrize("name", ["blk.1.ffn_down.weight", "output_norm.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m.gguf", LLAMA, leave_out=name)
    assert name.removeprefix("output_").split(".")[-2] in refusal(path)


def test_a_tensor_that_all_layers_lack_is_named(tmp_path: Path) -> None:
    layer = {k: v for k, v in LLAMA.layer.items() if not k.startswith("ffn_up")}
    assert "up_proj" in refusal(write(tmp_path / "m.gguf", replace(LLAMA, layer=layer)))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"attn_magic.weight": (HIDDEN,)}, "blk.0.attn_magic.weight"),
        ({"ffn_down.weight": (HIDDEN, 80)}, "ffn_down.weight has another shape"),
        ({"attn_q_norm.weight": (SIZE,)}, "attn_q_norm"),
    ],
)
def test_a_tensor_that_is_surplus_or_of_another_shape_is_named(
    tmp_path: Path, more: dict[str, Any], named: str
) -> None:
    case = replace(LLAMA, layer=LLAMA.layer | more)
    assert named in refusal(write(tmp_path / "m.gguf", case))


def test_factors_that_an_architecture_does_not_apply_are_refused(tmp_path: Path) -> None:
    case = replace(CASES["qwen2"], top=CASES["llama_rope_freqs"].top)
    assert "rope_freqs.weight" in refusal(write(tmp_path / "m.gguf", case))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.brand_new", 1),
        ("llama.rope.scaling.type", "spiral"),
        ("llama.rope.dimension_count", 12),
        ("llama.attention.scale", 0.3),
        ("llama.attention.causal", False),
        ("llama.attention.head_count_kv", 3),
        ("llama.rope.scaling.yarn_log_multiplier", 0.1),
        ("clip.vision.block_count", 3),
        ("general.type", "adapter"),
        ("general.architecture", "rwkv9"),
    ],
)
def test_a_key_that_is_not_understood_is_named(tmp_path: Path, key: str, value: Any) -> None:
    if key == "general.architecture":
        case: Case = replace(LLAMA, architecture=value)
        assert value in refusal(write(tmp_path / "m.gguf", case))
        return
    message = refusal(write(tmp_path / "m.gguf", LLAMA, **{key: value}))
    assert key in message or str(value) in message


def test_keys_without_effect_are_listed_with_their_reason(tmp_path: Path) -> None:
    more = {"llama.attention.sliding_window": 16, "some.vendor.note": "x"}
    plan = read_plan(write(tmp_path / "m.gguf", LLAMA, **more))
    assert all(plan.unused[name] for name in [*more, "llama.vocab_size"])
    assert "llama.rope.dimension_count" in plan.used


def split(path: Path, folder: Path, **more: Any) -> Path:
    """The file in two parts, as gguf-split leaves them."""
    reader = gguf.GGUFReader(path)
    folder.mkdir()
    half = len(reader.tensors) // 2
    for number, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        name = folder / f"m-{number + 1:05d}-of-00002.gguf"
        writer = gguf.GGUFWriter(name, "llama")
        for key, value in {"split.no": number, "split.count": 2}.items():
            writer.add_uint16(key, value)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for key, one in reader.fields.items() if number == 0 else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                kind = one.types[-1] if len(one.types) > 1 else None
                writer.add_key_value(key, one.contents(), one.types[0], kind)
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder / "m-00001-of-00002.gguf"


def test_a_split_file_is_loaded_whole_and_not_in_parts(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", LLAMA)
    first = split(whole, tmp_path / "parts")
    one, two = (load_gguf(path, torch.float32).state_dict() for path in (whole, first))
    assert all(torch.equal(one[name], two[name]) for name in one)
    second = part_paths(first)[1]
    with pytest.raises(ModelRefusedError) as caught:
        load_gguf(second, "auto")
    assert first.name in str(caught.value.hint)
    shutil.move(second, tmp_path / "elsewhere.gguf")
    assert second.name in refusal(first)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", LLAMA)
    path.write_bytes(path.read_bytes()[:-5000])
    assert "cut off" in refusal(path)


@pytest.mark.parametrize("name", ["llama", "llama_yarn", "gemma3_linear", "phi3_partial"])
def test_a_rope_that_loader_and_forward_get_wrong_alike_is_seen_at_load(
    tmp_path: Path, name: str
) -> None:
    plan = read_plan(write(tmp_path / "m.gguf", CASES[name]))
    module = load_gguf(plan.file.path, torch.float32)
    oracle.check_attention(module, plan)
    for part in module.modules():
        for attribute in vars(part).get("_buffers", {}):
            if attribute.endswith("inv_freq"):
                getattr(part, attribute)[1:] *= 0.7
    with pytest.raises(ModelRefusedError, match="attention of layer"):
        oracle.check_attention(module, plan)


def test_queries_in_the_other_order_of_pairs_are_seen_at_load(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path / "m.gguf", LLAMA))
    module = load_gguf(plan.file.path, torch.float32)
    weight = module.model.layers[0].self_attn.q_proj.weight.data
    weight.copy_(weight.unflatten(0, (4, 2, -1)).transpose(1, 2).flatten(0, 2))
    with pytest.raises(ModelRefusedError, match="attention of layer 0"):
        oracle.check_attention(module, plan)


def test_scaling_that_type_none_turns_off_has_no_effect(tmp_path: Path) -> None:
    off = replace(LLAMA, keys=LLAMA.keys | LINEAR | ROT | {"rope.scaling.type": "none"})
    rope = read_plan(write(tmp_path / "m.gguf", off)).layout.ropes[""]
    assert rope == replace(read_plan(write(tmp_path / "n.gguf", LLAMA)).layout.ropes[""])


def test_a_config_with_a_dtype_of_its_own_is_heeded(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", LLAMA)
    assert EngineConfig(model=path).dtype == "auto"
    assert load_gguf(path, "auto").dtype == torch.float32


def inspect(path: Path) -> Any:
    return CliRunner().invoke(cli, ["inspect", str(path), "--json"])


def test_inspect_says_what_is_applied_and_why_a_file_is_refused(tmp_path: Path) -> None:
    done = inspect(write(tmp_path / "m.gguf", CASES["gemma2_softcap"]))
    found = json.loads(done.stdout)
    assert (done.exit_code, found["model_type"], found["refused"]) == (0, "gemma2", None)
    assert found["applied"]["gemma2.attn_logit_softcapping"] == 5.0
    assert found["unused"]["gemma2.vocab_size"]
    bad = inspect(write(tmp_path / "n.gguf", LLAMA, **{"llama.brand_new": 3}))
    assert bad.exit_code == 2
    assert "llama.brand_new" in json.loads(bad.stdout)["refused"]


def test_a_merge_that_names_no_token_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", LLAMA, **{"tokenizer.ggml.merges": ["a b", "a zebra"]})
    with pytest.raises(ModelRefusedError, match="names 'zebra', which is no token") as caught:
        load_codec(resolve_model(str(path)))
    assert caught.value.exit_code == 2


def test_turn_ends_in_the_vocabulary_end_a_row_though_the_file_names_the_texts_end(
    tmp_path: Path,
) -> None:
    texts = tokens()
    texts[5:9] = ["<|im_end|>", "<|endoftext|>", "<|end|>", "</s>"]
    more = {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.eos_token_id": 6}
    files = resolve_model(str(write(tmp_path / "m.gguf", LLAMA, **more)))
    assert set(files.eos_token_ids) == {5, 6, 7, 8}
    texts[10:12] = ["<|return|>", "<|call|>"]
    files = resolve_model(str(write(tmp_path / "n.gguf", LLAMA, **more)))
    assert set(files.eos_token_ids) == {5, 6, 8, 10, 11}  # gpt-oss ends messages with <|end|>


def test_long_factors_bound_the_length_that_is_served(tmp_path: Path) -> None:
    short = CASES["phi3_short"]
    keys = short.keys | {"rope.scaling.original_context_length": 128}
    module = load_gguf(write(tmp_path / "m.gguf", replace(short, keys=keys)), torch.float32)
    model = load_model_from(module)
    assert model.max_position == 128
    with pytest.raises(ModelRefusedError, match=r"up to max_model_len 256: .* exact up to 128"):
        load_model_from(module, max_model_len=256)
