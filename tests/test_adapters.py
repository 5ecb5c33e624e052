"""LoRA adapters: each row's tokens are those of peft's model with that row's adapter."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import tokens_in_order
from lora_folders import PREFIX, lora_folder
from parity_oracle import Oracle, assert_parity
from safetensors.torch import load_file, save_file
from tiny_models import VOCAB_SIZE, tiny_model

from batchgen.engine.config import Adapter, EngineConfig
from batchgen.engine.prefix.block_hashes import extend_block_hashes
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.factory import load_served
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.lora_config import read_lora_config

NUM_TOKENS = 8
SHARED = [7] * 20
PROMPTS: list[list[int]] = [
    [*SHARED, 3],
    [*SHARED, 3],
    [*SHARED, 3],
    [5, 9, 11],
    [40, 41, 42, 43, 44],
    [*SHARED, 3],
]
CHOICES = ["", "a", "b", "a", "b", "a"]
TYPES = {
    "llama": ["q_proj", "v_proj", "gate_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "gemma2": ["k_proj", "o_proj", "up_proj"],
    "opt": ["q_proj", "fc1", "fc2"],  # flattens tokens before fc1
}
SETTINGS: dict[str, dict[str, Any]] = {
    "a": {"r": 4, "lora_alpha": 8},
    "b": {
        "r": 2,
        "lora_alpha": 6,
        "use_rslora": True,
        "alpha_pattern": {"v_proj": 1, "c_attn": 3},
        "rank_pattern": {"q_proj": 3, "qkv_proj": 5},
    },
}


def saved(tmp_path: Path, model_type: str) -> Path:
    module = tiny_model(model_type)
    module.save_pretrained(tmp_path / "model")
    for seed, (name, settings) in enumerate(SETTINGS.items()):
        lora_folder(tmp_path / name, module, TYPES[model_type], seed, **settings)
    return tmp_path / "model"


def adapter(tmp_path: Path, folder: str, name: str | None = None) -> Adapter:
    given = folder if name is None else name
    return Adapter(given, tmp_path / folder, tmp_path / folder / "adapter_model.safetensors")


def answers(
    model: Path, adapters: Sequence[Adapter], choices: Sequence[str], **config: Any
) -> list[list[int]]:
    settings = EngineConfig(
        model, device="cpu", dtype="float32", adapters=tuple(adapters), **config
    )
    _, engine = load_served(settings)
    requests: list[Request] = []
    for row, (prompt, choice) in enumerate(zip(PROMPTS, choices, strict=True)):
        params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, adapter=choice)
        requests.append(Request(row, prompt, params))
    found = tokens_in_order(engine, requests)
    engine.close()
    return found


def peft_model(model: Path, folder: Path) -> Any:
    """peft's own, merged by peft."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, at what peft asks it
        return peft.PeftModel.from_pretrained(base, folder).merge_and_unload()


@pytest.mark.parametrize("model_type", TYPES)
def test_tokens_are_peft_s_whether_merged_or_chosen_by_rows(
    tmp_path: Path, model_type: str
) -> None:
    model = saved(tmp_path, model_type)
    oracles = {"": Oracle(tiny_model(model_type))}
    oracles |= {name: Oracle(peft_model(model, tmp_path / name)) for name in SETTINGS}
    expected = {name: _tokens(oracle) for name, oracle in oracles.items()}
    assert expected[""] != expected["a"] != expected["b"]
    merged = answers(model, [adapter(tmp_path, "b", "")], [""] * len(PROMPTS))
    assert_parity(oracles["b"], PROMPTS, expected["b"], merged)
    both = [adapter(tmp_path, "a"), adapter(tmp_path, "b")]
    for config in ({}, {"max_num_batched_tokens": 7, "max_num_seqs": 3, "block_size": 4}):
        mixed = answers(model, both, CHOICES, **config)
        for row, choice in enumerate(CHOICES):
            wanted, prompt = expected[choice][row], PROMPTS[row]
            assert_parity(oracles[choice], [prompt], [wanted], [mixed[row]])


def _tokens(oracle: Oracle) -> list[list[int]]:
    """Of each prompt; of equal ones once."""
    known: dict[tuple[int, ...], list[int]] = {}
    for prompt in map(tuple, PROMPTS):
        known[prompt] = known.get(prompt) or oracle.generate(prompt, NUM_TOKENS)
    return [known[tuple(prompt)] for prompt in PROMPTS]


def test_blocks_of_one_adapter_are_not_another_s() -> None:
    from array import array

    tokens = array("i", range(8))
    names: dict[str, list[bytes]] = {name: [] for name in ("", "a", "b")}
    for name, hashes in names.items():
        extend_block_hashes(hashes, tokens, 4, name)
    assert len({name for hashes in names.values() for name in hashes}) == 6


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"use_dora": True}, "has use_dora, and no magnitude for model.layers.0"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save='lm_head', and no weights"),
        ({"bias": "some"}, "impossible value"),
        ({"lora_bias": True}, "has lora_bias, and no bias for model.layers.0"),
        ({"use_dora": True, "lora_bias": True}, "both use_dora and lora_bias"),
        ({"kasa_config": {"beta": 1e-4}}, "takes parts of the base model's weights away"),
        ({"trainable_token_indices": [1]}, "and no rows of an embedding"),
        ({"target_parameters": ["experts.w"]}, "no layers"),
        ({"layer_replication": [[0, 1]]}, "used several times"),
        ({"alora_invocation_tokens": [5]}, "aLoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model"),
        ({"something_new": 5}, "something_new=5: a setting that is not known"),
        ({"r": 0}, "impossible value"),
        ({"target_modules": "("}, "impossible value"),
        ({"rank_pattern": {"q_proj": 2}}, "of another rank"),
        ({"target_modules": ["q_proj"]}, "which its target_modules do not name"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "lacks the weights of 3 layers"),
        ({"layers_to_transform": [0, 1]}, "which its target_modules do not name"),
        ({"rank_pattern": {"((": 2}}, "an impossible value"),
        ({"alpha_pattern": {"(?i)x": 2}, "layers_pattern": "(("}, "an impossible value"),
        ({"exclude_modules": ["v_proj"]}, "which its target_modules do not name"),
    ],
)
def test_what_would_not_be_applied_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    module = tiny_model("llama")
    module.save_pretrained(tmp_path / "model")
    folder = lora_folder(tmp_path / "a", module, ["q_proj", "v_proj"])
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ModelRefusedError, match=words):
        answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * 6)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("model.embed_tokens.lora_embedding_A", (4, VOCAB_SIZE), "beside an embedding"),
        ("lm_head.weight", (VOCAB_SIZE, 32), "other weights"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", (32,), "no use_dora"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", (32,), "no lora_bias"),
        ("model.layers.9.self_attn.q_proj.lora_A.weight", (4, 32), "one half"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (4, 48), "of another model"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, key: str, shape: tuple[int, ...], words: str
) -> None:
    module = tiny_model("llama")
    module.save_pretrained(tmp_path / "model")
    file = lora_folder(tmp_path / "a", module, ["q_proj"]) / "adapter_model.safetensors"
    save_file(load_file(file) | {PREFIX + key: torch.ones(shape)}, file)
    with pytest.raises(ModelRefusedError, match=words):
        answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * 6)


def test_a_head_that_is_tied_and_layers_that_see_only_some_tokens_are_refused(
    tmp_path: Path,
) -> None:
    module = tiny_model("llama", tie_word_embeddings=True)
    module.save_pretrained(tmp_path / "model")
    lora_folder(tmp_path / "a", module, ["lm_head"])
    with pytest.raises(ModelRefusedError, match="tied to the embedding"):
        answers(tmp_path / "model", [adapter(tmp_path, "a", "")], [""] * 6)
    module = tiny_model("llama", tie_word_embeddings=False)
    module.save_pretrained(tmp_path / "other")
    lora_folder(tmp_path / "h", module, ["lm_head"])
    with pytest.raises(ModelRefusedError, match="every token of a step"):
        answers(tmp_path / "other", [adapter(tmp_path, "h")], [""] * 6)
    answers(tmp_path / "other", [adapter(tmp_path, "h", "")], [""] * 6)
    with pytest.raises(UsageError, match="several adapters"):
        answers(tmp_path / "other", [adapter(tmp_path, "h")], [""] * 6, quantization="int8")


@pytest.mark.parametrize("model_type", ["llama", "phi"])  # phi's head has a bias
def test_copies_of_the_model_s_own_weights_beside_an_adapter_change_nothing(
    tmp_path: Path, model_type: str
) -> None:
    """peft writes those of embeddings and heads where a head has a product."""
    module = tiny_model(model_type, tie_word_embeddings=False)
    module.save_pretrained(tmp_path / "model")
    file = lora_folder(tmp_path / "h", module, ["lm_head", "q_proj"]) / "adapter_model.safetensors"
    wanted = answers(tmp_path / "model", [adapter(tmp_path, "h", "")], [""] * 6)
    own = module.lm_head.state_dict()
    head = {f"{PREFIX}lm_head.base_layer.{name}": values.clone() for name, values in own.items()}
    embedding = {f"{PREFIX}model.embed_tokens.weight": module.model.embed_tokens.weight.bfloat16()}
    save_file(load_file(file) | head | embedding, file)
    assert answers(tmp_path / "model", [adapter(tmp_path, "h", "")], [""] * 6) == wanted
    list(head.values())[-1][5] += 1e-3
    save_file(load_file(file) | head, file)
    with pytest.raises(ModelRefusedError, match=r"lm_head.* other weights than the base model's"):
        answers(tmp_path / "model", [adapter(tmp_path, "h", "")], [""] * 6)


def test_targets_and_patterns_mean_what_peft_means(tmp_path: Path) -> None:
    utilities = pytest.importorskip("peft.tuners.tuners_utils")
    peft = pytest.importorskip("peft")
    names = [f"model.layers.{n}.{part}" for n in (0, 1, 11) for part in ("attn.q", "mlp.up", "q")]
    names += ["lm_head", "q", "model.h.1.experts.0.q"]
    for config in (
        {"target_modules": ["q", "lm_head"]},
        {"target_modules": r".*\.1\d?\..*q"},
        {"target_modules": ["attn.q", "up"], "exclude_modules": ["model.layers.1.mlp.up"]},
        {"target_modules": ["q"], "exclude_modules": r".*layers\.0.*"},
        {"target_modules": ["q"], "layers_to_transform": [1]},
        {"target_modules": ["q", "up"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"target_modules": ["q"], "layers_to_transform": [1, 11], "layers_pattern": ["h"]},
    ):
        given = {"peft_type": "LORA", "r": 8, **config}
        (tmp_path / "adapter_config.json").write_text(json.dumps(given))
        ours = read_lora_config(tmp_path)
        theirs = peft.LoraConfig(**config)
        for name in names:
            wanted = bool(utilities.check_target_module_exists(theirs, name))
            assert ours.targets(name) == wanted, (config, name)
