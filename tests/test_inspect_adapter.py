"""`batchgen inspect DIR`: what a LoRA adapter is, and all that a run would refuse of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from batchgen.cli.main import cli

LAYER = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"


def write_tensors(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A safetensors file of zeros in BF16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def adapter(folder: Path, more: Mapping[str, Sequence[int]] | None = None, **config: Any) -> Path:
    """Rank 4 on the queries and values of two layers; values of layer 1 have rank 2."""
    folder.mkdir()
    settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"layers.1.self_attn.v_proj": 2}, "base_model_name_or_path": "me/base",
    } | config  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    shapes: dict[str, Sequence[int]] = {}
    for number in (0, 1):
        for name in ("q_proj", "v_proj"):
            rank = 2 if (number, name) == (1, "v_proj") else 4
            shapes[LAYER.format(number, name, "A")] = (rank, 16)
            shapes[LAYER.format(number, name, "B")] = (8, rank)
    write_tensors(folder / "adapter_model.safetensors", shapes | dict(more or {}))
    return folder


def inspected(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["inspect", str(folder), *more])


def refusals(folder: Path) -> list[str]:
    result = inspected(folder, "--json")
    found: list[str] = json.loads(result.stdout)["refused"]
    assert result.exit_code == (2 if found else 0)
    return found


def test_rank_scale_targets_base_and_size_are_told(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    found = json.loads(inspected(folder, "--json").stdout)
    assert found == {
        "path": str(folder), "kind": "LORA", "base": "me/base", "rank": 4, "alpha": 8,
        "ranks": [2, 4], "scales": [2.0, 4.0], "targets": {"q_proj": 2, "v_proj": 2},
        "parameters": 14 * 24, "weight_bytes": 28 * 24, "dtypes": ["BF16"], "replaced": 0,
        "refused": [],
    }  # fmt: skip
    text = inspected(folder).stdout
    assert "LORA, rank 2, 4, alpha 8, scale 2, 4" in text
    assert "4 layers: q_proj 2, v_proj 2" in text
    assert f"batchgen run --model me/base --adapter {folder}" in text


def test_all_that_would_be_refused_is_named_at_once(tmp_path: Path) -> None:
    found = refusals(
        adapter(tmp_path / "a", use_qalora=True, arrow_config={"a": 1}, layer_replication=[[0, 1]])
    )
    assert [one.partition("=")[0] for one in found] == [
        "it has arrow_config", "it has layer_replication", "it has use_qalora",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"base_model.model.lm_head.modules_to_save.weight": (4, 4)}, "whole modules"),
        ({LAYER.format(2, "q_proj", "A"): (4, 16)}, "only one half"),
        ({LAYER.format(0, "q_proj", "B").replace("weight", "bias"): (8,)}, "no lora_bias"),
        ({LAYER.format(0, "o_proj", h): (4, 4) for h in "AB"}, "do not name"),
        ({LAYER.format(2, "q_proj", h): (3, 3) for h in "AB"}, "its rank is 4"),
    ],
    ids=["key", "half", "bias", "target", "rank"],
)
def test_weights_that_do_not_fit_their_config_are_named(
    tmp_path: Path, more: dict[str, Sequence[int]], told: str
) -> None:
    (found,) = refusals(adapter(tmp_path / "a", more))
    assert told in found


def test_missing_damaged_and_pickled_weights_are_named(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert "safetensors" in refusals(folder)[0]
    weights.unlink()
    assert refusals(folder) == ["adapter_model.safetensors is not there"]
    (folder / "adapter_model.bin").touch()
    assert "pickle" in refusals(folder)[0]
    assert "IA3" in refusals(adapter(tmp_path / "b", peft_type="IA3"))[0]


def test_a_folder_without_a_config_is_no_adapter(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["inspect", "model", str(tmp_path)])
    assert "adapter_config.json is not there" in str(result.exception)
