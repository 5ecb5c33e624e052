"""A weight in a package's format that lacks what it is read with is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from batchgen.engine.checkpoint.package_parts import check_parts
from batchgen.errors import ModelRefusedError

WEIGHT = "model.layers.0.mlp.up_proj.weight"
BYTES, FLOATS = torch.zeros(4, dtype=torch.uint8), torch.zeros(4)
NF4 = {
    WEIGHT: BYTES,
    f"{WEIGHT}.absmax": BYTES,
    f"{WEIGHT}.quant_map": FLOATS,
    f"{WEIGHT}.nested_absmax": FLOATS,
    f"{WEIGHT}.nested_quant_map": FLOATS,
    f"{WEIGHT}.quant_state.bitsandbytes__nf4": BYTES,
}
INT8 = {WEIGHT: BYTES.to(torch.int8), WEIGHT.replace("weight", "SCB"): FLOATS}
MADE_OF = {WEIGHT: json.dumps({"_type": "Int8Tensor", "_tensor_data_names": ["qdata", "scale"]})}
TORCHAO = {WEIGHT.replace("weight", f"_weight_{part}"): BYTES for part in ("qdata", "scale")}
PACKED = {f"{WEIGHT}_packed": BYTES, f"{WEIGHT}_scale": FLOATS}


def saved(folder: Path, tensors: dict[str, torch.Tensor], without: str = "") -> Path:
    kept = {name: value.clone() for name, value in tensors.items() if name != without}
    save_file(kept, folder / "model.safetensors", MADE_OF | {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("method", "tensors", "missing"),
    [
        *(("bitsandbytes", NF4, name) for name in list(NF4)[:-1]),
        *(("bitsandbytes", INT8, name) for name in INT8),
        *(("torchao", TORCHAO, name) for name in TORCHAO),
        ("compressed-tensors", PACKED, list(PACKED)[1]),
    ],
)
def test_what_a_weight_lacks_is_named_before_it_is_read(
    tmp_path: Path, method: str, tensors: dict[str, torch.Tensor], missing: str
) -> None:
    check_parts(saved(tmp_path, tensors), method)
    with pytest.raises(ModelRefusedError, match=f"without '{missing}'"):
        check_parts(saved(tmp_path, tensors, missing), method)


def test_a_weight_of_four_bits_without_its_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match=f"without '{WEIGHT}.quant_state'"):
        check_parts(saved(tmp_path, NF4, list(NF4)[-1]), "bitsandbytes")


def test_parts_under_torchao_s_older_names_are_there(tmp_path: Path) -> None:
    older = {name.replace("._weight_", ".weight:"): value for name, value in TORCHAO.items()}
    check_parts(saved(tmp_path, older), "torchao")


def test_scales_that_are_not_scaled_themselves_need_no_more(tmp_path: Path) -> None:
    plain = {name: value for name, value in NF4.items() if "nested" not in name}
    check_parts(saved(tmp_path, plain | {f"{WEIGHT}.absmax": FLOATS}), "bitsandbytes")
