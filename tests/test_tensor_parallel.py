"""One model over two processes gives the tokens that one process gives, whatever the batch does."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import warm_process
from echo_runs import stable, write_rows
from engine_runs import completions_of, tokens_of
from tiny_models import tiny_model

import batchgen
from batchgen.engine.config import Adapter, EngineConfig
from batchgen.engine.parallel import group
from batchgen.engine.parallel.followers import Followers, Start
from batchgen.engine.parallel.group import Group, join_group, leave_group
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.run.factory import load_engine, load_over
from batchgen.engine.run.tensor_parallel import load_parallel
from batchgen.engine.stats import EngineStats
from batchgen.errors import BatchgenError, ModelRefusedError, UsageError

TYPES = ["llama", "qwen3", "mixtral", "qwen3_moe", "gemma2", "phi3", "deepseek_v3"]
RANK = "import rank_child; rank_child.main(0)"
VOCAB = 98  # older transformers gather heads of even size alone


class Pair:
    """This process and another, which takes one model after the other."""

    def __init__(self, folder: Path) -> None:
        env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        self._folder, self._count = folder, 0
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = warm_process.start(
                ["-c", RANK, "run"], env=env, stdin=theirs, cwd=Path(__file__).parent
            )
        self._connection = Connection(ours.detach())

    def load(self, config: EngineConfig) -> LLMEngine:
        if not self._count:
            assert self._connection.poll(100), "the other process says nothing"
            assert self._connection.recv() == "ready"
        self._count += 1
        place = str(self._folder / f"meeting{self._count}")
        config = replace(config, tensor_parallel=2)
        self._connection.send(Start(config, 1, "cpu", 1, place, 30))
        join_group(0, 2, torch.device("cpu"), place)
        return load_over(config, Group(0, 2, torch.device("cpu"), self._connection.send))[1]

    def done(self) -> None:
        self._connection.send(None)
        leave_group()

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait(60)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    before = os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    usual, group._TIMEOUT = group._TIMEOUT, timedelta(seconds=100)
    both = Pair(tmp_path_factory.mktemp("meetings"))
    yield both
    both.close()
    group._TIMEOUT = usual
    if before == "lo":
        os.environ.pop("GLOO_SOCKET_IFNAME")


def tight(model: Path, **changes: Any) -> EngineConfig:
    """Prompts in several chunks, and a cache that is too small for what runs."""
    sizes: dict[str, Any] = {"max_num_batched_tokens": 24, "max_num_seqs": 4, "block_size": 4}
    sizes |= {"num_blocks": 24, "max_model_len": 64}
    return EngineConfig(model, device="cpu", dtype="float32", **(sizes | changes))


def requests(few: bool) -> list[Request]:
    """Of several lengths, some with a beginning in common, some drawn at random. `few`: so that a
    step computes prompts and single tokens, and no more."""
    generator = torch.Generator().manual_seed(0)
    head, found = _ids(20, generator), []
    for number, length in enumerate([3, 30, 17] if few else [3, 30, 17, 25, 5, 22, 9, 33]):
        prompt = (head if number % 2 else []) + _ids(length, generator)
        heat = 0.8 if number > 5 else 0.0
        params = SamplingParams(max_tokens=4 if few else 12, temperature=heat)
        found.append(Request(number, prompt, params, draw_key=number))
    return found


def _ids(length: int, generator: torch.Generator) -> list[int]:
    return [int(n) for n in torch.randint(1, 90, (length,), generator=generator)]


def answers(engine: LLMEngine, few: bool = True) -> tuple[dict[int, list[int]], EngineStats]:
    return tokens_of(completions_of(engine, requests(few))), engine.stats()


def test_two_processes_give_the_tokens_of_one(pair: Pair, tmp_path: Path) -> None:
    """All types in one test: the two processes are those of one worker. What the scheduler does is
    the same for all of them; how they are split is not."""
    for model_type in TYPES:
        folder = tmp_path / model_type
        tiny_model(model_type, vocab_size=VOCAB).save_pretrained(folder)
        few = model_type != TYPES[0]
        wanted, _ = answers(load_engine(tight(folder)), few)
        engine = pair.load(tight(folder))
        found, stats = answers(engine, few)
        pair.done()
        assert found == wanted, model_type
        assert few or stats.preemptions
        assert few or stats.cached_tokens
        assert stats.device == "2 x cpu"


def test_each_rank_holds_its_heads_and_its_slices_alone(pair: Pair, tmp_path: Path) -> None:
    tiny_model("llama", vocab_size=VOCAB).save_pretrained(tmp_path)
    one = load_over(tight(tmp_path))[0]
    engine_pair = pair.load(tight(tmp_path))
    model = engine_pair._runner._model  # type: ignore[attr-defined]
    pair.done()
    assert [spec.num_kv_heads for spec in one.specs] == [2, 2, 2]
    assert [spec.num_kv_heads for spec in model.specs] == [1, 1, 1]
    assert model.bytes_per_block(4) * 2 == one.bytes_per_block(4)
    linears = [part for part in model.module.modules() if isinstance(part, torch.nn.Linear)]
    whole = [part for part in one.module.modules() if isinstance(part, torch.nn.Linear)]
    assert all(
        a.weight.numel() * 2 == b.weight.numel() for a, b in zip(linears, whole, strict=True)
    )


def test_random_weights_are_made_share_by_share(pair: Pair, tmp_path: Path) -> None:
    tiny_model("llama", vocab_size=VOCAB).config.save_pretrained(tmp_path)
    engine = pair.load(tight(tmp_path, load_format="dummy"))
    found, _ = answers(engine)
    pair.done()
    model = engine._runner._model  # type: ignore[attr-defined]
    weight = model.module.model.layers[0].mlp.up_proj.weight
    one, _ = load_over(tight(tmp_path, load_format="dummy"))
    assert weight.numel() * 2 == one.module.model.layers[0].mlp.up_proj.weight.numel()
    assert weight.std() > 0.01
    assert all(found.values())


def refused(config: EngineConfig, error: type[BatchgenError], text: str) -> None:
    with pytest.raises(error, match=text):
        load_parallel(config)


def test_what_cannot_be_split_is_refused_by_name_before_a_process_starts(tmp_path: Path) -> None:
    tiny_model("gpt2", vocab_size=VOCAB).save_pretrained(tmp_path / "gpt2")
    tiny_model("llama", vocab_size=VOCAB).save_pretrained(tmp_path / "llama")
    (tmp_path / "model.gguf").touch()
    llama = tight(tmp_path / "llama", tensor_parallel=2)
    refused(replace(llama, model=tmp_path / "gpt2"), ModelRefusedError, "'gpt2' .* no tensor-par")
    refused(replace(llama, tensor_parallel=3), ModelRefusedError, "num_attention_heads = 4 does")
    refused(replace(llama, tensor_parallel=4), ModelRefusedError, "num_key_value_heads = 2 does")
    refused(replace(llama, model=tmp_path / "model.gguf"), UsageError, "gguf")
    refused(replace(llama, quantization="int8"), UsageError, "--quantization int8")
    adapter = Adapter("a", tmp_path, tmp_path)
    refused(replace(llama, adapters=(adapter,)), UsageError, "--adapter")


def test_a_killed_rank_ends_the_job_by_name_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader is this process; the other rank is one as users have it."""
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": f"Say {n} in words"} for n in range(8)])
    job: dict[str, Any] = {"inputs": str(rows), "device": "cpu", "dtype": "float32", "quiet": True}
    job |= {"max_tokens": 6, "min_tokens": 6, "max_num_seqs": 2, "checkpoint_every": 1}
    batchgen.run(out=tmp_path / "one.parquet", **job)
    two: dict[str, Any] = {"out": tmp_path / "two.parquet", "tensor_parallel": 2, **job}
    announce, num_steps = Followers.announce, itertools.count()

    def kill_then_announce(self: Followers, order: object) -> None:
        if next(num_steps) == 12:
            os.kill(self.pids[0], signal.SIGKILL)
        announce(self, order)

    monkeypatch.setattr(Followers, "announce", kill_then_announce)
    with pytest.raises(BatchgenError, match=r"rank 1 of --tensor-parallel 2 ended \(signal SIGK"):
        batchgen.run(**two)
    summary = batchgen.run(**two)
    assert summary.ok == 8
    assert summary.reused
    assert summary.device == "2 x cpu"
    assert stable(tmp_path / "two.parquet") == stable(tmp_path / "one.parquet")
