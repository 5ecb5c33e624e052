"""Tests marked `cuda` run where there is a GPU and are skipped elsewhere, with a clear word."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from s3_server import Proxy, s3_behind_proxy
from time_limits import (  # noqa: F401
    pytest_configure,
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_unconfigure,
)

from batchgen.cli.process.threads import settle_waiting
from batchgen.job.stopping.signals import POLITE_SIGNALS

if TYPE_CHECKING:
    from batchgen.job.stores.remote_path import RemotePath

# Before torch is imported, here and in processes that tests start: on few cores the threads of a
# tiny model's step wait for each other longer than they compute, and as long as they spin no other
# test's process gets on.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settle_waiting()

# Nothing that is imported or collected is garbage.
gc.disable()

# Many images set it; then every process that a test starts compiles all of batchgen again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Started by nohup or in the background of a script, a process ignores these, and so would every
# process that a test starts and sends them to.
for _number, _handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
_AT_FIRST = {number: signal.getsignal(number) for number in POLITE_SIGNALS}


_LONGEST = (
    *("test_a_longer_input_takes", "in_the_interpreter", "test_the_first_commands_run"),
    *("test_no_warning_of_a_dependency", "test_kills_and_faults_at_random", "test_killed_anywhere"),
    *("test_killed_at_a_dozen", "test_shards_of_random_numbers", "test_any_sequence_of_shardings"),
    *("test_code_beside_a_model", "test_two_processes_give", "test_a_killed_rank_ends"),
)
"""Begun first: at the end, one of them would keep a worker after the others have gone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(name in item.nodeid for name in _LONGEST))
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_is_no_garbage() -> None:
    """What is imported and collected stays: no collection of garbage, of which each engine that is
    closed asks for one, needs to look through it, nor through what other modules' tests left."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _environment_is_left_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process settles variables, as for a process of its own."""
    before = dict(os.environ)
    yield
    for name in before.keys() | os.environ.keys() - {"PYTEST_CURRENT_TEST"}:
        if name not in before:
            del os.environ[name]
        elif os.environ.get(name) != before[name]:
            os.environ[name] = before[name]


@pytest.fixture(autouse=True)
def _signals_do_what_they_did() -> None:
    """A command that a test or a fixture ran in this process took them, as for a process of its
    own; kept, a Ctrl-C that a test sends would ask a job for a stop that ended long ago."""
    for number, handler in _AT_FIRST.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _logs_reach_the_test() -> None:
    """A command that an earlier test ran in this process took batchgen's log for its terminal."""
    log = logging.getLogger("batchgen")
    log.propagate = True
    log.setLevel(logging.NOTSET)
    log.handlers.clear()


@pytest.fixture(autouse=True)
def _random_tensors_are_the_same_each_time() -> None:
    """What fails once in a thousand runs fails in all of them, or in none."""
    torch = sys.modules.get("torch")
    if torch is not None and "manual_seed" in vars(torch):
        torch.manual_seed(0)


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """For tests of order and names; what fsync does is the kill tests' matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    """For what shares its work out among threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def layers_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the last one answers for few tokens on a GPU, too."""
    from batchgen.engine.last_layer import binding

    monkeypatch.setattr(binding, "_LARGE_LAYER", 0)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Proxy]:
    """One for all tests of this process."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    with s3_behind_proxy() as proxy:
        yield proxy


@pytest.fixture
def s3(s3_server: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server without faults, for this test's environment."""
    from batchgen.job.stores import clients, failures

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clients, "RETRY_SECONDS", 20.0)
    monkeypatch.setattr(failures, "_PAUSES_S", (0.01,) * 5)
    clients._clients.clear()
    s3_server.faults.clear()
    s3_server.listings.clear()
    s3_server.requests.clear()
    yield s3_server
    clients._clients.clear()


@pytest.fixture
def folder(request: pytest.FixtureRequest, s3: Proxy) -> RemotePath:
    """A name of this test's own in the bucket."""
    from batchgen.job.stores.places import place_of

    found = place_of(f"s3://bucket/{abs(hash(request.node.nodeid)):x}")
    return found  # type: ignore[return-value]
