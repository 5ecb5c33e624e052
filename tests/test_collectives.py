"""What ranks compute together can be compiled: hooks on split layers break no graph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from batchgen.engine.parallel import split_model
from batchgen.engine.parallel.group import Group, join_group, leave_group


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """A group of this process: collectives run, and change nothing."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    join_group(0, 1, torch.device("cpu"), str(tmp_path / "meeting"))
    yield Group(0, 1, torch.device("cpu"))
    leave_group()
    torch.compiler.reset()


@torch.inference_mode()
def test_a_split_layer_compiles_as_one_graph(alone: Group) -> None:
    summed, gathered = nn.Linear(6, 8), nn.Linear(8, 5)
    summed.register_forward_hook(split_model._sum_output)
    split_model._gathered(gathered, 5)
    gathered.register_forward_pre_hook(split_model._take_share)
    layer = nn.Sequential(summed, gathered)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (3, 7):
        x = torch.randn(rows, 6)
        assert torch.equal(compiled(x), layer(x))
    assert alone.smallest(3) == 3
