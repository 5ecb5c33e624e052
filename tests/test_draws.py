from __future__ import annotations

from batchgen.engine.draws import draw_key, uniform


def test_a_key_depends_on_seed_row_and_sample_alone() -> None:
    keys = {draw_key(s, row, n) for s in (0, 1) for row in ("=1", "#1", "=é\ud800") for n in (0, 1)}
    assert len(keys) == 12
    assert draw_key(0, "=1", 0) == draw_key(0, "=1", 0)
    assert all(0 <= key < 2**64 for key in keys)


def test_parts_of_a_key_cannot_be_shifted_into_each_other() -> None:
    assert draw_key(1, "=1", 11) != draw_key(1, "=11", 1)
    assert draw_key(11, "=1", 1) != draw_key(1, "=11", 1)


def test_draws_are_those_of_splitmix64() -> None:
    # the reference generator seeded with 1234567 (https://prng.di.unimi.it/splitmix64.c)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [uniform(1234567, i) for i in range(3)] == [(z >> 11) * 2.0**-53 for z in expected]


def test_draws_stay_below_one() -> None:
    drawn = [uniform(key, position) for key in range(0, 2**64, 2**55) for position in range(20)]
    assert 0.0 <= min(drawn) < 0.001
    assert 0.999 < max(drawn) < 1.0
