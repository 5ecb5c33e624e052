"""The path that a GPU takes (`GraphRunner`) heals from failed steps too: run on the host, names of
CUDA replaced, and a captured graph standing for the step that it recorded."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from fake_model import VOCAB_SIZE, FakeModel

pytest.importorskip("triton", reason="triton is not installed: there is no GPU path")

from batchgen.engine.cuda import graph_runner, host_syncs
from batchgen.engine.cuda.graph_runner import GraphRunner
from batchgen.engine.cuda.host_syncs import WaitsForDeviceError
from batchgen.engine.request import Completion, SamplingParams
from batchgen.engine.run.engine import LLMEngine
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.job.flow.engine_faults import EngineFaults
from batchgen.job.rows import InputRow
from batchgen.job.stores import faults
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.prepared import PreparedRow
from batchgen.job.text.requests import Requests

MAX_SEQS, BUDGET, BLOCK_SIZE, MAX_LEN = 48, 512, 4, 128


class Nothing:
    """Stands for streams and events: on the host a step is over when it returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """Whether it is done."""
        return True


class PaddedModel(FakeModel):
    """`FakeModel` that writes no padded token; `failing` calls run out of memory."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.failing, self.num_calls = failing, 0

    def forward(self, input_ids: Any, positions: Any, metadata: Any, indices: Any) -> Any:
        self.num_calls += 1
        if self.num_calls in self.failing:
            raise torch.OutOfMemoryError("injected")
        real = metadata.slot_mapping >= 0
        slots = metadata.slot_mapping[real].long()
        self.cache.view(-1, 2)[slots, 0] = input_ids[real]
        self.cache.view(-1, 2)[slots, 1] = positions[real]
        logits = torch.zeros(metadata.num_seqs, self.vocab_size)
        for row in range(metadata.num_seqs):
            if metadata.seq_lens[row]:
                logits[row] = self._logits(row, int(metadata.seq_lens[row]), metadata)
        return logits


def tokens_of(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the GPU's kernel chooses."""
    best = logits.max(dim=1)
    return best.indices, best.values.isfinite()


class Replay:
    """A captured step: replaying it does again what was recorded, with what the buffers hold."""

    def __init__(self, step: Any) -> None:
        self.replay = step


class HostGraphRunner(GraphRunner):
    """Captures at the second use of a bucket, as on a GPU."""

    def _record(self, bucket: Any, choice: Any) -> Any:
        return Replay(lambda: self._compute(bucket, choice))


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Event", "Stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(graph_runner, "greedy_tokens", tokens_of)
    monkeypatch.setattr(graph_runner, "forbid_waiting", nullcontext)

    def transfer(num_inputs: int, num_seqs: int) -> Any:
        zeros = [torch.zeros(size, dtype=torch.int32) for size in (num_inputs, num_seqs)]
        return graph_runner.Transfer(*zeros, Nothing())  # type: ignore[arg-type]

    monkeypatch.setattr(graph_runner, "make_transfer", transfer)


def engine_of(model: FakeModel, depth: int = 1) -> LLMEngine:
    model.allocate_cache(600, BLOCK_SIZE)
    scheduler = Scheduler(BlockManager(600, BLOCK_SIZE), MAX_SEQS, BUDGET)
    runner = HostGraphRunner(
        model,
        num_slots=scheduler.num_slots,
        max_num_seqs=MAX_SEQS,
        max_num_tokens=BUDGET,
        max_model_len=MAX_LEN,
        block_size=BLOCK_SIZE,
    )
    return LLMEngine(scheduler, runner, max_model_len=MAX_LEN, vocab_size=VOCAB_SIZE, depth=depth)


def rows(count: int = 60) -> list[InputRow]:
    lengths = random.Random(5)
    return [
        InputRow(
            index=i,
            origin="test",
            id=f"row-{i}",
            prompt_token_ids=[1 + (i * 31 + k) % 90 for k in range(lengths.randint(6, 14))],
            params=SamplingParams(max_tokens=lengths.randint(1, 20)),
        )
        for i in range(count)
    ]


def run(engine: Any, prepared: list[PreparedRow]) -> dict[int, Completion]:
    """Row index -> its completion."""
    for row in prepared:
        for request in row.requests:
            engine.add(request)
    ended: dict[int, Completion] = {}
    for _ in range(5000):
        if not engine.num_unfinished:
            break
        ended |= {completion.request_id >> 10: completion for completion in engine.step()}
    assert not engine.num_unfinished
    return ended


def ready(requests: Requests) -> list[PreparedRow]:
    prepared, failed = requests.prepare(rows())
    assert not failed
    return prepared


def unbroken() -> dict[int, list[int]]:
    ended = run(engine_of(PaddedModel()), ready(Requests(ByteCodec())))
    return {index: list(completion.token_ids) for index, completion in ended.items()}


@pytest.mark.parametrize("depth", [0, 1])
def test_out_of_memory_in_a_full_step_heals_in_halves(depth: int) -> None:
    """The first step brings more new blocks than the inputs of its halves have room for."""
    engine = engine_of(PaddedModel(failing=(1, 2, 12)), depth)
    ended = run(engine, ready(Requests(ByteCodec())))
    assert {i: list(c.token_ids) for i, c in ended.items()} == unbroken()
    assert engine.stats().oom_events == 3


@pytest.mark.parametrize("depth", [0, 1])
def test_faults_on_purpose_reach_the_gpu_path(depth: int) -> None:
    text = "oom:step=2,5;nan:id=row-7,row-40;oom:id=row-9;broken:id=row-11"
    wanted = EngineFaults(faults.parse(text))
    prepared = ready(wanted.watching(Requests(ByteCodec())))
    engine = engine_of(PaddedModel(), depth)
    ended = run(wanted.fitted(engine), prepared)
    codes = {i: str(c.error_code) for i, c in ended.items() if c.error_code}
    assert codes == {7: "nan_logits", 40: "nan_logits", 9: "oom", 11: "engine_crash"}
    clean = unbroken()
    assert all(list(c.token_ids) == clean[i] for i, c in ended.items() if i not in codes)
    assert engine._runner._captures.graphs, "no step was captured"  # type: ignore[attr-defined]
    assert engine.stats().oom_events >= 2


class WaitingModel(PaddedModel):
    """Reads a result on the host at the end of its first `waits` forwards."""

    def __init__(self, waits: float) -> None:
        super().__init__()
        self.waits, self.forbidden = waits, False

    @contextmanager
    def forbidding(self) -> Iterator[None]:
        self.forbidden = True
        try:
            yield
        finally:
            self.forbidden = False

    def forward(self, *args: Any) -> Any:
        logits = super().forward(*args)
        if self.num_calls <= self.waits and self.forbidden:
            raise WaitsForDeviceError("called a synchronizing CUDA operation")
        return logits


@pytest.mark.parametrize(("waits", "captured"), [(1, True), (float("inf"), False)])
def test_a_model_that_always_waits_for_the_device_runs_without_graphs(
    waits: float, captured: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = WaitingModel(waits)
    monkeypatch.setattr(graph_runner, "forbid_waiting", model.forbidding)
    engine = engine_of(model)
    ended = run(engine, ready(Requests(ByteCodec())))
    assert {i: list(c.token_ids) for i, c in ended.items()} == unbroken()
    assert bool(engine._runner._captures.graphs) is captured  # type: ignore[attr-defined]
    said = sum("without CUDA graphs" in message for message in caplog.messages)
    assert said == (not captured)


def test_two_engines_of_a_process_leave_it_free_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forbids it as the other does, and ends first."""
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    begun, tried, ended = (threading.Event() for _ in range(3))

    def first() -> None:
        with host_syncs.forbid_waiting():
            begun.set()
            assert tried.wait(10)
            ended.wait(0.2)

    def second() -> None:
        assert begun.wait(10)
        tried.set()
        with host_syncs.notice_waiting():
            one.join(10)
        ended.set()

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    one.join(10)
    other.join(10)
    assert ended.is_set()
    assert modes == [0, 2, 0, 1, 0]


def test_a_step_that_cannot_be_captured_at_once_is_rehearsed_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, record, failed = unbroken(), HostGraphRunner._record, []

    def known_only(runner: HostGraphRunner, bucket: Any, choice: Any) -> Any:
        if (bucket, choice) not in runner._captures.rehearsed:
            failed.append(bucket)
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return record(runner, bucket, choice)

    monkeypatch.setattr(HostGraphRunner, "_record", known_only)
    engine = engine_of(PaddedModel())
    ended = run(engine, ready(Requests(ByteCodec())))
    assert {i: list(c.token_ids) for i, c in ended.items()} == expected
    assert len(failed) == 1, "it is tried once"
    captured = engine._runner._captures.graphs  # type: ignore[attr-defined]
    assert any(bucket.is_decode for bucket, _ in captured)
    assert not any("without CUDA graphs" in message for message in caplog.messages)


@pytest.mark.parametrize(("failure", "captured"), [("out of memory", True), ("illegal", False)])
def test_a_graph_that_memory_has_no_room_for_costs_no_other_one(
    failure: str, captured: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, record = unbroken(), HostGraphRunner._record

    def small_only(runner: HostGraphRunner, bucket: Any, choice: Any) -> Any:
        if bucket.num_seqs > 16:
            raise RuntimeError(f"CUDA error: {failure}")
        return record(runner, bucket, choice)

    monkeypatch.setattr(HostGraphRunner, "_record", small_only)
    engine = engine_of(PaddedModel())
    ended = run(engine, ready(Requests(ByteCodec())))
    assert {i: list(c.token_ids) for i, c in ended.items()} == expected
    assert bool(engine._runner._captures.graphs) is captured  # type: ignore[attr-defined]
    said = [message for message in caplog.messages if "for want of memory" in message]
    assert len(said) == len(set(said)), "the same graph was tried twice"
    assert bool(said) is captured
