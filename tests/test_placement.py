"""Weights arrive on the device as they are in the file, whatever their sizes and types."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from batchgen.engine.checkpoint import placement
from batchgen.engine.checkpoint.placement import Staging, copy_all, move, place
from batchgen.engine.cuda.warm_up import warm_device


@pytest.mark.parametrize("size", [16, 48, 1 << 12])
def test_tensors_of_any_size_pass_through_the_buffers_whole(size: int) -> None:
    torch.manual_seed(1)
    sources = [
        torch.randn(7, 5).bfloat16(),
        torch.randn(3),
        torch.empty(0, 4),
        torch.tensor(5),
        torch.rand(9) > 0.5,
        torch.randint(-128, 127, (100,), dtype=torch.int8),
        torch.randn(33, dtype=torch.float64),
        torch.randn(2, 2, dtype=torch.complex64),
    ]
    targets = [torch.zeros_like(source) for source in sources]
    copy_all(zip(sources, targets, strict=True), Staging(size, pinned=False))
    assert all(torch.equal(a, b) for a, b in zip(sources, targets, strict=True))


def test_a_module_on_the_host_is_moved_as_torch_moves_it() -> None:
    layer = nn.Linear(3, 3)
    assert place(layer, torch.device("cpu")) is layer
    assert place(layer, torch.device("meta")).weight.device.type == "meta"


def tied_module() -> nn.Sequential:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Embedding(50, 64), nn.BatchNorm1d(64), nn.Linear(64, 50, bias=False))
    module[2].weight = module[0].weight
    module.register_buffer("strided", torch.randn(6, 8).T)
    return module.bfloat16()


def test_a_moved_module_has_what_it_had_in_places_of_its_own() -> None:
    module = tied_module()
    before = dict(module.state_dict())
    move(module, torch.device("cpu"), Staging(4096, pinned=False))
    assert module[2].weight is module[0].weight
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert name == "strided" or tensor.data_ptr() != before[name].data_ptr()


@pytest.mark.cuda
def test_a_placed_module_is_the_one_that_to_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_LEAST_BYTES", 0)
    monkeypatch.setattr(placement, "_BUFFER_BYTES", 4096)
    module = tied_module()
    before = dict(module.state_dict())
    assert place(module, torch.device("cuda")) is module
    assert module[2].weight is module[0].weight
    for name, tensor in module.state_dict().items():
        assert tensor.is_cuda
        assert torch.equal(tensor.cpu(), before[name]), name


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_device_is_warm_after_one_small_step_of_every_kind(device: str) -> None:
    assert warm_device(torch.device(device)) == 0
    assert warm_device(torch.device(device), torch.float32) == 0
