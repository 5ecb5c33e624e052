"""Several engine processes are one engine: equal rows, and a process that dies costs no other."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from echo_runs import batchgen, prompts, stable, summary_of, write_rows
from safetensors.numpy import save_file

from batchgen.devices import num_gpus, only_gpus
from batchgen.engine.processes.devices import Device, own_device, parse_devices
from batchgen.engine.processes.engine_process import EngineProcess
from batchgen.engine.processes.fleet import Fleet, begin_fleet
from batchgen.engine.processes.routing import Router
from batchgen.engine.processes.wire import Load, Loaded
from batchgen.engine.request import Completion, FinishReason, Request, SamplingParams
from batchgen.engine.stats import EngineStats
from batchgen.errors import ErrorCode, ModelRefusedError, RowError, UsageError
from batchgen.interpreter import tuned_interpreter
from batchgen.job.model.files import resolve_model

CORE = min(os.sched_getaffinity(0))


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    one = parse_devices(f"cpu:{CORE}")[0]
    made = begin_fleet([one, one], Load(None, max_num_seqs=4, max_model_len=100))
    made.wait_until_loaded()
    yield made
    made.close()


def finish(fleet: Fleet) -> dict[int, Completion]:
    done = {}
    while fleet.num_unfinished:
        done |= {completion.request_id: completion for completion in fleet.step()}
    return done


def request(number: int, prompt: Sequence[int] | None = None, max_tokens: int = 5) -> Request:
    return Request(number, prompt or [number, 1, 2], SamplingParams(max_tokens=max_tokens))


def test_every_request_is_answered_once_with_its_own_tokens(fleet: Fleet) -> None:
    begun: list[int] = []
    fleet.on_admission = begun.extend
    for number in range(100):
        fleet.add(request(number))
    done = finish(fleet)
    assert {i: c.token_ids for i, c in done.items()} == {i: [i, 1, 2] for i in range(100)}
    assert sorted(begun) == list(range(100))
    assert all(c.timings.enqueued <= c.timings.first_scheduled for c in done.values())
    assert fleet.stats().output_tokens >= 300  # some are taken back while they are computed


class Thresholds(tuple[int, ...]):
    """In another process: what its garbage collector waits for."""

    def __reduce__(self) -> Any:
        return gc.get_threshold, ()


def test_an_engine_s_process_collects_garbage_as_a_job_s_does(fleet: Fleet) -> None:
    fleet.add(replace(request(1), prompt_token_ids=Thresholds((1, 2, 3))))
    (done,) = finish(fleet).values()
    with tuned_interpreter(short_turns=False):
        assert tuple(done.token_ids) == gc.get_threshold()
    assert tuple(done.token_ids) != gc.get_threshold()


def test_a_process_that_dies_costs_no_request(fleet: Fleet) -> None:
    for number in range(40):
        fleet.add(request(number))
    os.kill(fleet._processes[0]._process.pid, signal.SIGKILL)
    assert {i: c.token_ids for i, c in finish(fleet).items()} == {i: [i, 1, 2] for i in range(40)}


def test_a_request_that_kills_its_process_again_and_again_is_given_up_alone(fleet: Fleet) -> None:
    fleet.doomed[7] = signal.SIGKILL
    for number in range(30):
        fleet.add(request(number))
    done = finish(fleet)
    assert done.pop(7).error_code is ErrorCode.ENGINE_CRASH
    assert {i: c.token_ids for i, c in done.items()} == {i: [i, 1, 2] for i in range(30) if i != 7}


def test_kills_from_outside_blame_no_healthy_request(fleet: Fleet) -> None:
    """Its process is killed twice with others in hand, and thrice while it is computed alone."""
    kills = 0

    def kill(begun: list[int]) -> None:
        nonlocal kills
        if 7 in begun and kills < 5:
            kills += 1
            os.kill(fleet._owners[7]._process.pid, signal.SIGKILL)
            fleet._owners[7].receive()  # what it said last, if anything

    fleet.on_admission = kill
    for number in range(30):
        fleet.add(request(number, [*range(90)] if number == 7 else None))
    done = finish(fleet)
    assert kills >= 3
    assert {i for i, c in done.items() if c.error_code} == set()


def test_what_a_process_refuses_is_its_requests_error(fleet: Fleet) -> None:
    with pytest.raises(RowError) as refused:
        fleet.add(request(1, list(range(100))))
    assert refused.value.code is ErrorCode.PROMPT_TOO_LONG
    assert fleet.num_unfinished == 0


class Idle(EngineProcess):
    """A process that was given requests and did nothing yet."""

    def __init__(self, max_num_seqs: int) -> None:
        self.loaded = Loaded(1 << 20, max_num_seqs, EngineStats())
        self.assigned: dict[int, Request] = {}
        self.begun: set[int] = set()

    def send(self, message: object) -> None:
        """Nobody listens."""


def test_few_requests_are_dealt_evenly_and_the_longest_come_first() -> None:
    one, two = Idle(64), Idle(64)
    fleet = Fleet([one, two], Load(None))
    for number in range(10):
        fleet.add(request(number, max_tokens=number + 1))
    fleet._give_out()
    assert [list(one.assigned), list(two.assigned)] == [[9, 6, 5, 2, 1], [8, 7, 4, 3, 0]]
    for number in range(10, 2000):
        fleet.add(request(number, max_tokens=5))
    fleet._give_out()
    assert len(one.assigned) == len(two.assigned) == 64 * 8


def test_a_process_with_free_slots_takes_what_another_has_no_slot_for() -> None:
    one, two = Idle(64), Idle(64)
    fleet = Fleet([one, two], Load(None))
    for number in range(400):
        fleet.add(request(number))
    fleet._give_out()
    one.begun.update(list(one.assigned)[:64])
    for request_id in list(two.assigned)[:190]:
        fleet._finish(Completion(request_id, [1], FinishReason.STOP, None))
    begun = set(one.begun)
    fleet._give_out()
    assert (len(one.assigned), len(two.assigned)) == (146, 64)
    assert begun <= set(one.assigned)
    assert {*one.assigned, *two.assigned} == {i for i in range(400) if i in fleet._requests}
    fleet._give_out()
    assert (len(one.assigned), len(two.assigned)) == (146, 64)  # it has no free slot now


def dealt(requests: Sequence[Request]) -> tuple[set[int], set[int]]:
    one, two = Idle(64), Idle(64)
    fleet = Fleet([one, two], Load(None))
    for one_request in requests:
        fleet.add(one_request)
    fleet._give_out()
    return set(one.assigned), set(two.assigned)


def test_questions_on_one_document_go_to_one_process() -> None:
    documents = [[number] * 1000 for number in range(6)]
    questions = [
        request(8 * document + question, [*documents[document], question], max_tokens=20)
        for question in range(8)
        for document in range(6)
    ]
    one, two = dealt(questions)
    for document in range(6):
        asked = set(range(8 * document, 8 * document + 8))
        assert asked <= one or asked <= two
    assert len(one) == len(two)


def test_rows_under_one_instruction_are_dealt_evenly() -> None:
    one, two = dealt([request(i, [7] * 600 + [i], max_tokens=30) for i in range(50)])
    assert abs(len(one) - len(two)) <= 2


def test_a_process_that_died_has_nothing_in_hand_and_knows_no_beginning() -> None:
    router: Router[str] = Router()
    assert router.route(request(0, [1] * 600), ["one"]) == "one"
    router.take(0)
    assert router.route(request(1, [1] * 600), ["two", "one"]) == "one"
    router.forget("one")
    router.take(1)
    assert router.route(request(2, [1] * 600), ["two", "one"]) == "two"


def test_an_aborted_request_is_never_answered(fleet: Fleet) -> None:
    for number in range(20):
        fleet.add(request(number))
    fleet.step()
    fleet.abort(19)
    assert 19 not in finish(fleet)
    assert fleet.unfinished_outputs() == {}


def test_a_model_that_is_refused_is_refused_as_without_processes(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(
        '{"model_type": "mamba", "hidden_size": 16, "vocab_size": 64}'
    )
    for file in resolve_model(None).path.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "m")
    save_file({"x": np.zeros(1)}, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    rows = write_rows(tmp_path / "in.jsonl", prompts(2))
    device = f"cpu:{CORE}"
    result = batchgen(
        "run", "--in", rows, "--out", tmp_path / "o.parquet", "--model", tmp_path / "m",
        "--devices", device,
    )  # fmt: skip
    assert result.returncode == ModelRefusedError.exit_code
    assert "lacks 323 weights, the first is" in result.stderr


def test_a_job_over_processes_writes_the_file_of_one(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", prompts(3000))
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    common = ["run", "--in", rows, "--engine", "echo", "--out"]
    assert batchgen(*common, one).returncode == 0
    result = batchgen(*common, two, "--devices", f"cpu:{CORE}", "--stop", "zzz")
    assert result.returncode == 0, result.stderr
    assert summary_of(result)["computed"] == 3000
    assert stable(one) == stable(two)


@pytest.mark.parametrize("text", ["", "gpu", "cpu:4096", "cpu", "0,0", "mps:0", f"cpu:{CORE},x"])
def test_a_wrong_list_of_devices_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_devices(text)


def test_a_process_sees_its_own_gpus_alone_under_the_names_that_they_have() -> None:
    """So that what is compiled for the first of them serves all."""
    given = {"CUDA_VISIBLE_DEVICES": "GPU-a,5,MIG-c,3"}
    assert only_gpus(0, 1, {}) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert only_gpus(2, 2, {}) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert only_gpus(1, 2, given) == {"CUDA_VISIBLE_DEVICES": "5,MIG-c"}
    assert Device("cuda:2", "cuda:2").number == 2
    assert [Device(n, n).number for n in ("cuda", "auto", "cpu")] == [None, None, None]


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    four = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert num_gpus(four) == 4
    assert num_gpus({"CUDA_VISIBLE_DEVICES": "2, 3,-1,0"}) == 2, "those up to one that is none"
    assert own_device("cuda", four | {"LOCAL_RANK": "3"}) == "cuda:3"
    assert own_device("auto", four | {"SLURM_LOCALID": "1"}) == "cuda:1"
    assert own_device("auto", four | {"SLURM_LOCALID": "1"}, each=2) == "cuda:2"
    assert own_device("cuda:0", four | {"LOCAL_RANK": "3"}) == "cuda:0"
    assert own_device("cuda", {"CUDA_VISIBLE_DEVICES": "2", "LOCAL_RANK": "3"}) == "cuda"
    assert own_device("auto", four) == "auto"
