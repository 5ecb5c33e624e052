"""A request is given up where it kills, never because somebody kills from outside."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from batchgen.engine.processes.blame import TRIALS, Blame

Kills = Callable[[float, bool], float | None]
"""(seconds at work, whether it is a trial) -> when in that time the process is killed, if ever."""
MOST_DEATHS = 400


def judged(killer: Kills, trial_s: float, *, load_s: float = 0.0, guilty: bool = False) -> bool:
    """Whether one suspect is blamed, with a fleet's moves: load, control, trial, until it ends."""
    blame = Blame()
    blame.died_elsewhere([1])
    blame.died_elsewhere([1])
    for _ in range(MOST_DEATHS):
        assert blame.is_suspect(1)
        if killer(load_s + blame.control_s(1), False) is not None:
            blame.died_elsewhere()
            continue
        at = killer(trial_s, True)
        if guilty:
            at = trial_s if at is None else at
        if at is None:
            return False
        if blame.died_alone(1, at):
            return True
    return False


def at_random(rate: float, seed: int) -> Kills:
    """Kills at a constant rate, whatever the process does."""
    draw = random.Random(seed)

    def kills(seconds: float, _: bool) -> float | None:
        at = draw.expovariate(rate)
        return at if at < seconds else None

    return kills


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.3, 0.5, 1.0, 2.0])
def test_a_healthy_request_outlives_a_killer_of_any_rate(rate: float) -> None:
    blamed = sum(judged(at_random(rate, seed), trial_s=1.0) for seed in range(1500))
    assert blamed / 1500 < 0.01


def test_loading_that_takes_its_time_is_a_control_too() -> None:
    blamed = sum(judged(at_random(0.3, seed), trial_s=1.0, load_s=5.0) for seed in range(3000))
    assert blamed / 3000 < 0.001


def test_a_killer_of_whatever_is_busy_gets_nobody_blamed() -> None:
    def kills(seconds: float, _: bool) -> float | None:
        return 0.5 if seconds > 0.5 else None

    assert not judged(kills, trial_s=1.0)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3])
def test_a_guilty_request_is_blamed_with_and_without_a_killer_beside_it(rate: float) -> None:
    assert all(judged(at_random(rate, seed), 1.0, guilty=True) for seed in range(50))


def test_a_guilty_request_costs_four_processes_where_nothing_else_kills() -> None:
    blame = Blame()
    assert [blame.died_alone(1, 0.1) for _ in range(TRIALS)] == [False, False, False, True]
    assert blame.control_s(1) == pytest.approx(0.3)


def test_a_death_elsewhere_begins_the_count_again() -> None:
    blame = Blame()
    for _ in range(TRIALS - 1):
        blame.died_alone(1, 0.1)
    blame.died_elsewhere([2])
    assert not blame.died_alone(1, 0.1)
    blame.forget(1)
    assert blame.control_s(1) == 0.0
