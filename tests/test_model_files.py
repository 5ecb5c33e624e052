"""What a model's files say: where it is found, which tokens end it, what it refuses, what it is."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchgen.engine.checkpoint import quantized
from batchgen.errors import ModelRefusedError
from batchgen.gguf_header import read_gguf_header
from batchgen.job.ledger.fingerprint import fingerprint_of
from batchgen.job.model.files import ModelFiles, ModelKind, model_of, resolve_model
from batchgen.job.spec import InputSpec, JobSpec

TOKENS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<|im_end|>": 3, "<|eot_id|>": 4, "<end_of_turn>": 5}


def model_folder(folder: Path, **files: dict[str, Any]) -> Path:
    """A folder with the given JSON files (`generation_config={...}` -> generation_config.json)."""
    folder.mkdir(parents=True, exist_ok=True)
    added = [{"id": i, "content": t, "special": True} for t, i in TOKENS.items()]
    files.setdefault("config", {"model_type": "llama"})
    files.setdefault("tokenizer", {"added_tokens": added, "model": {"vocab": {"word": 9}}})
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def eos(folder: Path) -> set[int]:
    return set(resolve_model(str(folder)).eos_token_ids)


def gguf_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<Ii", 5, value) if value < 0 else struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, list):
        kind = 8 if isinstance(value[0], str) else 5
        items = b"".join(gguf_text(v) if kind == 8 else struct.pack("<i", v) for v in value)
        return struct.pack("<IIQ", 9, kind, len(value)) + items
    return struct.pack("<I", 8) + gguf_text(value)


def gguf_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def write_gguf(path: Path, metadata: dict[str, Any]) -> Path:
    body = b"".join(gguf_text(key) + gguf_value(value) for key, value in metadata.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + body)
    return path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": 3}}, {3}),
        ({"generation_config": {"eos_token_id": [3, 4]}}, {3, 4}),
        ({"config": {"eos_token_id": 2}}, {2}),
        ({"config": {"text_config": {"eos_token_id": [2, 5]}}}, {2, 5}),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, {3}),
        ({"tokenizer_config": {"eos_token": {"content": "</s>", "special": True}}}, {2}),
        ({"tokenizer_config": {"eot_token": "<end_of_turn>"}}, {5}),
        ({"tokenizer_config": {"extra_special_tokens": {"eot_token": "<|eot_id|>"}}}, {4}),
        ({"special_tokens_map": {"eos_token": {"content": "<|eot_id|>"}}}, {4}),
        ({"tokenizer_config": {"eos_token": "word"}}, {9}),
        ({"config": {"eos_token_id": None}}, set()),
        ({"tokenizer_config": {"eos_token": "not in the vocabulary"}}, set()),
        (
            {
                "generation_config": {"eos_token_id": [3]},
                "config": {"eos_token_id": 2},
                "tokenizer_config": {"eos_token": "<|eot_id|>"},
            },
            {2, 3, 4},
        ),
    ],
)
def test_every_place_that_names_an_end_token_is_read(
    tmp_path: Path, files: dict[str, Any], expected: set[int]
) -> None:
    assert eos(model_folder(tmp_path / "m", **files)) == expected


def test_a_gguf_file_names_its_tokens(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        {
            "general.architecture": "llama",
            "llama.context_length": 77,
            "llama.rope.freq_base": 10000.0,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.tokens": list("abcdef"),
            "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.eot_token_id": 5,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.chat_template": "{{ messages }}",
        },
    )
    files = resolve_model(str(path))
    assert files.kind is ModelKind.GGUF
    assert files.eos_token_ids == (2, 5)
    assert (files.bos_token_id, files.max_position) == (1, 77)
    assert files.chat_template == "{{ messages }}"
    assert files.served_names == (str(path), "m.gguf")


@pytest.mark.parametrize("keep", [0, 3, 20, 60])
def test_a_damaged_gguf_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama", "x": ["a", "b"]})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelRefusedError, match="not a whole GGUF file"):
        resolve_model(str(path))


def test_a_length_that_exceeds_the_file_is_refused_without_reading_on(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60))
    with pytest.raises(ModelRefusedError):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"temperature": 0.0}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
        (
            {"do_sample": True},
            {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0},
        ),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 0, "repetition_penalty": 1.1},
            {
                "temperature": 0.6,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.1,
            },
        ),
        ({"max_new_tokens": 9, "stop_strings": "x"}, {"max_tokens": 9, "stop": ("x",)}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
        (
            {"suppress_tokens": [5, 2], "bad_words_ids": [[7, 8], [2], [9]], "eos_token_id": 2},
            {"bad_words_ids": [[7, 8], [9], [5], [2]]},
        ),
    ],
)
def test_generation_config_is_read_as_transformers_reads_it(
    tmp_path: Path, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = resolve_model(str(model_folder(tmp_path / "m", generation_config=config)))
    assert found.generation_defaults == {"temperature": 0.0} | expected


def test_without_generation_config_the_model_config_decides(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", config={"do_sample": True, "top_k": 7})
    assert resolve_model(str(folder)).generation_defaults["top_k"] == 7


def test_settings_that_batchgen_lacks_are_named(tmp_path: Path) -> None:
    config = {
        "num_beams": 4,
        "no_repeat_ngram_size": 0,
        "typical_p": 1.0,
        "sequence_bias": [[[5], 1.0]],
        "guidance_scale": 1,
        "penalty_alpha": 0.0,
    }
    config |= {"encoder_no_repeat_ngram_size": 2, "cache_implementation": "quantized"}
    folder = model_folder(tmp_path / "m", generation_config=config)
    named = ("num_beams", "encoder_no_repeat_ngram_size", "sequence_bias", "cache_implementation")
    assert resolve_model(str(folder)).ignored_settings == named


@pytest.mark.parametrize("ref", ["/no/such/folder", "./nothing", "a/b/c", "x.gguf", "~/nothing"])
def test_a_missing_model_is_a_usage_error_that_names_it(ref: str) -> None:
    with pytest.raises(ModelRefusedError, match=r"Model not found") as caught:
        resolve_model(ref)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match=r"config\.json is missing"):
        resolve_model(str(tmp_path))


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelRefusedError, match="cannot be read"):
        resolve_model(str(tmp_path))


def test_a_hub_id_that_is_not_cached_is_refused_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelRefusedError, match="nobody/nothing") as caught:
        resolve_model("nobody/nothing")
    assert "HF_HUB_OFFLINE" in str(caught.value.hint)


def test_a_cached_hub_model_is_used_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit, root = "a" * 40, tmp_path / "models--me--mine"
    model_folder(root / "snapshots" / commit, config={"eos_token_id": 2})
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    files = resolve_model("me/mine")
    assert files.identity()["commit"] == commit
    assert files.served_names == ("me/mine", "mine")


@pytest.mark.parametrize(
    "config",
    [
        {"is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]},
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
    ],
)
def test_what_is_no_causal_decoder_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    files = resolve_model(str(model_folder(tmp_path / "m", config=config)))
    with pytest.raises(ModelRefusedError, match=str(config["architectures"][0])):
        files.check_supported()


def test_a_causal_model_is_let_through(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"]}
    resolve_model(str(model_folder(tmp_path / "m", config=config))).check_supported()


def weighted(folder: Path, weights: bytes) -> ModelFiles:
    model_folder(folder, generation_config={"eos_token_id": 2})
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    data = struct.pack("<Q", len(header)) + header + weights
    (folder / "model.safetensors").write_bytes(data)
    return resolve_model(str(folder))


def test_identity_does_not_depend_on_the_place(tmp_path: Path) -> None:
    first = weighted(tmp_path / "a", bytes(4))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert resolve_model(str(tmp_path / "b")).identity() == first.identity()
    assert str(tmp_path) not in json.dumps(first.identity())


def test_identity_tells_a_fine_tune_of_the_same_shape(tmp_path: Path) -> None:
    first, second = weighted(tmp_path / "a", b"\0" * 4), weighted(tmp_path / "b", b"\1" * 4)
    changed = {k for k in first.identity() if first.identity()[k] != second.identity()[k]}
    assert changed == {"weights"}


@pytest.mark.parametrize("name", ["config", "generation_config", "tokenizer"])
def test_identity_changes_with_each_small_file(tmp_path: Path, name: str) -> None:
    before = weighted(tmp_path / "a", bytes(4)).identity()
    (tmp_path / "a" / f"{name}.json").write_text('{"eos_token_id": 7}')
    after = resolve_model(str(tmp_path / "a")).identity()
    assert {key for key in after if after[key] != before[key]} == {name}


def test_a_models_own_code_is_part_of_a_job_that_runs_it(tmp_path: Path) -> None:
    files = weighted(tmp_path / "a", bytes(4))
    trusting = JobSpec(InputSpec(("rows.jsonl",)), tmp_path / "out", trust_remote_code=True)
    plain = fingerprint_of(replace(trusting, trust_remote_code=False), files)
    assert fingerprint_of(trusting, files) == plain  # it has none
    code = tmp_path / "a" / "parts" / "modeling.py"
    code.parent.mkdir()
    found = []
    for text in ("FACTOR = 1", "FACTOR = 2"):
        code.write_text(text)
        assert fingerprint_of(replace(trusting, trust_remote_code=False), files) == plain
        found.append(fingerprint_of(trusting, files)["code"])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"quant_method": "hqq"}, "hqq weights, which batchgen does not serve"),
        ({"quant_method": "gptq", "bits": 3}, "does not serve of 3 bits"),
        ({"bits": 4}, "without a quant_method"),
        (["gptq"], "in a form that cannot be read"),
        ({"quant_method": "compressed-tensors", "config_groups": ["x"]}, "that cannot be read"),
    ],
)
def test_quantised_weights_that_are_not_served_are_refused_by_every_command(
    tmp_path: Path, described: Any, message: str
) -> None:
    config = {"model_type": "llama", "quantization_config": described}
    folder = model_folder(tmp_path, config=config)
    spec = JobSpec(InputSpec(("rows.jsonl",)), tmp_path / "out", model=str(folder))
    with pytest.raises(ModelRefusedError, match=message) as caught:
        model_of(spec)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_modelopt_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (folder / "hf_quant_config.json").write_text("{")
    with pytest.raises(ModelRefusedError, match=r"hf_quant_config\.json\) in a form"):
        resolve_model(str(folder)).check_supported()


def test_a_package_that_reads_the_weights_is_asked_for_before_a_run_and_not_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plan` and `validate` may run where the model never will."""
    monkeypatch.setattr(quantized, "_is_installed", lambda name: False)
    config = {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}
    files = resolve_model(str(model_folder(tmp_path, config=config)))
    files.check_supported()
    with pytest.raises(ModelRefusedError, match="bitsandbytes is not installed"):
        files.check_loadable(whole=False)


def test_the_template_file_wins_over_the_tokenizer_config(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    folder = model_folder(tmp_path / "m", tokenizer_config={"chat_template": named})
    assert resolve_model(str(folder)).chat_template == "d"
    (folder / "chat_template.jinja").write_text("j")
    assert resolve_model(str(folder)).chat_template == "j"


def test_the_longest_sequence_is_found_in_every_spelling(tmp_path: Path) -> None:
    configs = [{"n_positions": 5}, {"text_config": {"max_position_embeddings": 5}}]
    for number, config in enumerate(configs):
        folder = model_folder(tmp_path / str(number), config=config)
        assert resolve_model(str(folder)).max_position == 5


def test_a_rope_that_depends_on_its_neighbours_bounds_a_row(tmp_path: Path) -> None:
    """As the engine does, so that a cut prompt fits and `validate` knows what does not."""
    own = {"max_position_embeddings": 131_072}
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    configs: dict[int, list[dict[str, Any]]] = {
        4096: [
            own | {"rope_parameters": longrope},
            own | {"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 4096},
            own | {"rope_parameters": {"full_attention": longrope, "sliding_attention": {}}},
            {"text_config": own | {"rope_parameters": longrope}},
        ],
        131_072: [
            own | {"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 4096}},
            own | {"rope_scaling": None},
        ],
    }
    for expected, some in configs.items():
        for number, config in enumerate(some):
            folder = model_folder(tmp_path / f"{expected}-{number}", config=config)
            assert resolve_model(str(folder)).max_position == expected
